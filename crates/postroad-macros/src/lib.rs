//! `#[postroad::service]`: a trait is the schema of a service; its client and its routes are
//! written from it.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, format_ident, quote};
use syn::{
    FnArg, Ident, ItemTrait, Pat, ReturnType, TraitItem, TraitItemFn, Type, parse_macro_input,
};

/// Writes client and routes of a service from its trait.
///
/// ```text
/// #[postroad::service]
/// trait Greeter {
///     async fn hello(&self, name: String) -> Result<String, postroad::Error>;
/// }
/// ```
///
/// gives, beside the trait, whose methods become futures that are `Send`:
///
/// - `GreeterClient::new(client)` with `hello(name)` that returns `Result<String,
///   postroad::CallError>`;
/// - `greeter_routes(service)`, a `Router` with the route `Greeter.hello`.
///
/// Arguments travel as one object with a field for each, so `postroad call URL Greeter.hello
/// '{"name": "Ada"}'` works too, in JSON or MessagePack. Every method is `async`, takes `&self` and
/// owned values, and returns a `Result` whose error converts into `postroad::Error`.
///
/// Attributes of a method stand on the trait's method and on the client's. A method that `cfg`
/// leaves out has no route either.
#[proc_macro_attribute]
pub fn service(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemTrait);
    if !attribute.is_empty() {
        let error = syn::Error::new(item.ident.span(), "#[postroad::service] takes no arguments");
        return error.into_compile_error().into();
    }
    expand(&item)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// What is needed of one method.
struct Method<'a> {
    name: &'a Ident,
    /// All that stand on it: they belong to the trait's method and to the client's.
    attributes: &'a [syn::Attribute],
    /// Those of them that decide whether the method exists at all (`cfg`): whatever is written for
    /// it goes by them.
    conditions: Vec<&'a syn::Attribute>,
    names: Vec<&'a Ident>,
    types: Vec<&'a Type>,
    output: &'a Type,
    ok: &'a Type,
}

impl<'a> Method<'a> {
    fn parse(item: &'a TraitItemFn) -> syn::Result<Self> {
        let signature = &item.sig;
        let fail = |text: &str| Err(syn::Error::new_spanned(signature, text));
        if signature.asyncness.is_none() {
            return fail("methods of a service are async");
        }
        if !signature.generics.params.is_empty() || item.default.is_some() {
            return fail("methods of a service have no generics and no body: they are its schema");
        }
        let mut inputs = signature.inputs.iter();
        let is_shared = |me: &syn::Receiver| me.reference.is_some() && me.mutability.is_none();
        let takes_self = matches!(inputs.next(), Some(FnArg::Receiver(me)) if is_shared(me));
        if !takes_self {
            return fail("methods of a service take &self: one service handles many calls at once");
        }
        let (mut names, mut types) = (Vec::new(), Vec::new());
        for input in inputs {
            let FnArg::Typed(input) = input else {
                return fail("unexpected self");
            };
            let Pat::Ident(name) = &*input.pat else {
                return Err(syn::Error::new_spanned(
                    &input.pat,
                    "arguments of a service have plain names",
                ));
            };
            names.push(&name.ident);
            types.push(&*input.ty);
        }
        let ReturnType::Type(_, output) = &signature.output else {
            return fail("methods of a service return Result<T, postroad::Error>");
        };
        let Some(ok) = first_argument(output) else {
            return fail("methods of a service return Result<T, postroad::Error>");
        };
        let conditions = item
            .attrs
            .iter()
            .filter(|attribute| attribute.path().is_ident("cfg"))
            .collect();
        Ok(Self {
            name: &signature.ident,
            attributes: &item.attrs,
            conditions,
            names,
            types,
            output,
            ok,
        })
    }

    /// The struct that its arguments travel in.
    fn arguments(&self, service: &Ident) -> Ident {
        format_ident!("__{service}_{}", self.name)
    }

    fn types_as_text(&self) -> (String, String) {
        let fields = self.names.iter().zip(&self.types);
        let fields: Vec<String> = fields
            .map(|(name, ty)| format!("{name}: {}", text(ty)))
            .collect();
        (format!("{{{}}}", fields.join(", ")), text(self.ok))
    }
}

/// `T` of `Result<T, E>`.
fn first_argument(output: &Type) -> Option<&Type> {
    let Type::Path(path) = output else {
        return None;
    };
    let last = path.path.segments.last()?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        syn::GenericArgument::Type(ok) if last.ident == "Result" => Some(ok),
        _ => None,
    }
}

/// A type as a person writes it: tokens are joined with spaces by default.
fn text(ty: &impl ToTokens) -> String {
    let spaced = ty.to_token_stream().to_string();
    spaced
        .replace(" < ", "<")
        .replace(" >", ">")
        .replace(" , ", ", ")
        .replace(" :: ", "::")
        .replace("< ", "<")
}

/// `UserStore` becomes `user_store`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

fn expand(item: &ItemTrait) -> syn::Result<Tokens> {
    let mut methods = Vec::new();
    for item in &item.items {
        match item {
            TraitItem::Fn(method) => methods.push(Method::parse(method)?),
            other => return Err(syn::Error::new_spanned(other, "a service has only methods")),
        }
    }
    if !item.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &item.generics,
            "a service has no generics",
        ));
    }
    let definition = definition(item, &methods);
    let structs = methods.iter().map(|method| argument_struct(item, method));
    let client = client(item, &methods);
    let routes = routes(item, &methods);
    Ok(quote! { #definition #(#structs)* #client #routes })
}

fn definition(item: &ItemTrait, methods: &[Method<'_>]) -> Tokens {
    let (visibility, service, attributes) = (&item.vis, &item.ident, &item.attrs);
    let methods = methods.iter().map(|method| {
        let Method {
            name,
            attributes,
            names,
            types,
            output,
            ..
        } = method;
        quote! {
            #(#attributes)*
            fn #name(&self #(, #names: #types)*)
                -> impl ::core::future::Future<Output = #output> + ::core::marker::Send;
        }
    });
    quote! {
        #(#attributes)*
        #visibility trait #service: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#methods)*
        }
    }
}

fn argument_struct(item: &ItemTrait, method: &Method<'_>) -> Tokens {
    let arguments = method.arguments(&item.ident);
    let Method {
        names,
        types,
        conditions,
        ..
    } = method;
    quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #[derive(::postroad::serde::Serialize, ::postroad::serde::Deserialize)]
        #[serde(crate = "::postroad::serde")]
        struct #arguments { #(#names: #types,)* }
    }
}

fn client(item: &ItemTrait, methods: &[Method<'_>]) -> Tokens {
    let (visibility, service) = (&item.vis, &item.ident);
    let client = format_ident!("{service}Client");
    let about = format!("Calls [`{service}`] over a connection.");
    let methods = methods.iter().map(|method| {
        let Method {
            name,
            attributes,
            names,
            types,
            ok,
            ..
        } = method;
        let (arguments, route) = (method.arguments(service), format!("{service}.{name}"));
        quote! {
            #(#attributes)*
            #visibility async fn #name(&self #(, #names: #types)*)
                -> ::core::result::Result<#ok, ::postroad::CallError> {
                self.client.call(#route, &#arguments { #(#names),* }).await
            }
        }
    });
    quote! {
        #[doc = #about]
        #[derive(Clone, Debug)]
        #visibility struct #client { client: ::postroad::Client }

        #[allow(dead_code)]
        impl #client {
            /// Over this connection.
            #visibility fn new(client: ::postroad::Client) -> Self {
                Self { client }
            }

            #(#methods)*
        }
    }
}

fn routes(item: &ItemTrait, methods: &[Method<'_>]) -> Tokens {
    let (visibility, service) = (&item.vis, &item.ident);
    let routes = format_ident!("{}_routes", snake_case(&service.to_string()));
    let about = format!("The routes of an implementation of [`{service}`].");
    let methods = methods.iter().map(|method| {
        let Method {
            name,
            names,
            conditions,
            ..
        } = method;
        let (arguments, route) = (method.arguments(service), format!("{service}.{name}"));
        let (request, response) = method.types_as_text();
        quote! {
            #(#conditions)*
            let each = ::std::sync::Arc::clone(&service);
            #(#conditions)*
            let router = router.route_with(
                #route,
                ::postroad::RouteOptions::new().types(#request, #response),
                move |payload: ::postroad::extract::Payload<#arguments>| {
                    let service = ::std::sync::Arc::clone(&each);
                    async move {
                        let reply = payload.reply(());
                        let #arguments { #(#names),* } = payload.value;
                        // A deprecated method is served as long as it is there.
                        #[allow(deprecated)]
                        let value = service.#name(#(#names),*).await;
                        let value = value.map_err(::postroad::Error::from)?;
                        ::core::result::Result::<_, ::postroad::Error>::Ok(reply.reply(value))
                    }
                },
            );
        }
    });
    quote! {
        #[doc = #about]
        #[allow(dead_code)]
        #visibility fn #routes(service: impl #service) -> ::postroad::Router {
            let service = ::std::sync::Arc::new(service);
            let router = ::postroad::Router::new();
            #(#methods)*
            router
        }
    }
}

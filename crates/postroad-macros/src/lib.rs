//! `#[postroad::service]`: a trait is the schema of a service; its client and its routes are
//! written from it.

mod method;

use method::Method;
use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ItemTrait, LitStr, Path, TraitItem, parse_macro_input, parse_quote};

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
///   postroad::CallError>`. `client.with(|call| call.timeout(..).priority(7).metadata(..))` gives a
///   client whose calls have these settings, for one call or for many;
/// - `greeter_routes(service)`, a `Router` with the route `Greeter.hello`;
/// - `GreeterHelloArgs { name }`, what travels to that route, for those who call it by name.
///
/// Arguments travel as one object with a field for each, so `postroad call URL Greeter.hello
/// '{"name": "Ada"}'` works too, in JSON or MessagePack. Every method is `async`, takes `&self` and
/// owned values that implement serde's `Serialize` and `Deserialize`, and returns a `Result`, also
/// by an alias, whose error converts into `postroad::Error`.
///
/// The first argument after `&self` may be the call's circumstances, `CallContext` or
/// `&CallContext`: deadline, trace, priority, metadata, peer, and the identity that a hook has
/// found. The client's method does not have it. It is known by the name of its type.
///
/// `#[idempotent]` on a method says that a call of it may be run twice: the client's method says so
/// with every call, so that it may be sent again after its connection was lost, and the route says
/// so to whoever asks what it declares.
///
/// Other attributes of a method stand on the trait's method and on the client's. A method that
/// `cfg` leaves out has no route either.
///
/// If the library has another name in `Cargo.toml`, or is reached through another crate, say so:
/// `#[postroad::service(crate = "other::postroad")]`.
#[proc_macro_attribute]
pub fn service(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let mut library: Path = parse_quote!(::postroad);
    let options = syn::meta::parser(|meta| {
        if !meta.path.is_ident("crate") {
            return Err(meta.error("the only option is crate = \"path\""));
        }
        library = meta.value()?.parse::<LitStr>()?.parse()?;
        Ok(())
    });
    parse_macro_input!(attribute with options);
    let item = parse_macro_input!(item as ItemTrait);
    expand(&item, &library)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
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

/// `place_order` becomes `PlaceOrder`.
fn camel_case(name: &str) -> String {
    let words = name.trim_start_matches("r#").split('_');
    words
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().into_iter().flat_map(char::to_uppercase);
            first.chain(letters).collect::<Vec<_>>()
        })
        .collect()
}

fn expand(item: &ItemTrait, library: &Path) -> syn::Result<Tokens> {
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
    let structs = methods.iter().map(|method| {
        let checks = checks(method, library);
        let arguments = argument_struct(item, method, library);
        quote! { #checks #arguments }
    });
    let client = client(item, &methods, library);
    let routes = routes(item, &methods, library);
    Ok(quote! { #definition #(#structs)* #client #routes })
}

fn definition(item: &ItemTrait, methods: &[Method<'_>]) -> Tokens {
    let (visibility, service, attributes) = (&item.vis, &item.ident, &item.attrs);
    let methods = methods.iter().map(|method| {
        let Method {
            name,
            attributes,
            context,
            names,
            types,
            output,
            ..
        } = method;
        let context = context.as_ref().map(|context| {
            let (name, ty) = (context.name, context.ty);
            quote!(, #name: #ty)
        });
        quote! {
            #(#attributes)*
            fn #name(&self #context #(, #names: #types)*)
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

/// Says of each type by itself whether it can travel. What is wrong with one is then reported where
/// it stands in the trait, and not at the attribute, which everything else that is written here
/// seems to come from.
fn checks(method: &Method<'_>, library: &Path) -> Tokens {
    let conditions = &method.conditions;
    let arguments = method.types.iter().map(|ty| {
        let check = quote_spanned! { ty.span()=>
            const _: bool = #library::typed::travels::<#ty>();
        };
        quote! { #(#conditions)* #check }
    });
    let ok = method.ok(library);
    let answer = quote_spanned! { method.output.span()=>
        const _: bool = #library::typed::travels::<#ok>();
    };
    quote! { #(#arguments)* #(#conditions)* #answer }
}

fn argument_struct(item: &ItemTrait, method: &Method<'_>, library: &Path) -> Tokens {
    let (visibility, service) = (&item.vis, &item.ident);
    let arguments = method.arguments(service);
    let Method {
        name,
        names,
        types,
        conditions,
        ..
    } = method;
    let about = format!("What travels to the route `{service}.{name}`: its arguments by name.");
    let fields = names.iter().zip(types).map(|(name, ty)| {
        let about = format!("The argument `{name}`.");
        quote! { #[doc = #about] #visibility #name: #ty, }
    });
    let serde = quote!(#library::serde).to_string().replace(' ', "");
    quote! {
        #(#conditions)*
        #[doc = #about]
        #[derive(#library::serde::Serialize, #library::serde::Deserialize)]
        #[serde(crate = #serde)]
        #visibility struct #arguments { #(#fields)* }
    }
}

fn client(item: &ItemTrait, methods: &[Method<'_>], library: &Path) -> Tokens {
    let (visibility, service) = (&item.vis, &item.ident);
    let client = format_ident!("{service}Client");
    let about = format!("Calls [`{service}`] over a connection.");
    let methods = methods.iter().map(|method| {
        let Method {
            name,
            attributes,
            names,
            types,
            ..
        } = method;
        let ok = method.ok(library);
        let (arguments, route) = (method.arguments(service), method.route(service));
        let idempotent = method.idempotent();
        quote! {
            #(#attributes)*
            #visibility async fn #name(&self #(, #names: #types)*)
                -> ::core::result::Result<#ok, #library::CallError> {
                let call = self.client.request(#route).options(&self.options)#idempotent;
                call.call(&#arguments { #(#names),* }).await
            }
        }
    });
    quote! {
        #[doc = #about]
        #[derive(Clone, Debug)]
        #visibility struct #client {
            client: #library::Client,
            options: #library::client::CallOptions,
        }

        #[allow(dead_code)]
        impl #client {
            /// Over this connection.
            #visibility fn new(client: #library::Client) -> Self {
                Self { client, options: #library::client::CallOptions::new() }
            }

            /// The same connection, whose calls have these settings too: timeout, priority,
            /// metadata and so on. For one call, call on what this returns; as defaults, keep it.
            #[must_use]
            #visibility fn with(
                &self,
                set: impl ::core::ops::FnOnce(
                    #library::client::CallOptions
                ) -> #library::client::CallOptions,
            ) -> Self {
                Self {
                    client: ::core::clone::Clone::clone(&self.client),
                    options: set(::core::clone::Clone::clone(&self.options)),
                }
            }

            #(#methods)*
        }
    }
}

fn routes(item: &ItemTrait, methods: &[Method<'_>], library: &Path) -> Tokens {
    let (visibility, service) = (&item.vis, &item.ident);
    let routes = format_ident!("{}_routes", snake_case(&service.to_string()));
    let about = format!("The routes of an implementation of [`{service}`].");
    let methods = methods.iter().map(|method| route(method, service, library));
    quote! {
        #[doc = #about]
        #[allow(dead_code)]
        #visibility fn #routes(service: impl #service) -> #library::Router {
            let service = ::std::sync::Arc::new(service);
            let router = #library::Router::new();
            #(#methods)*
            router
        }
    }
}

/// Adds the route of one method to the router.
fn route(method: &Method<'_>, service: &Ident, library: &Path) -> Tokens {
    let Method {
        name,
        names,
        conditions,
        ..
    } = method;
    let (arguments, route) = (method.arguments(service), method.route(service));
    let (request, response) = method.types_as_text();
    let idempotent = method.idempotent();
    let (extracted, passed) = match &method.context {
        None => (None, None),
        Some(context) => {
            let borrow = context.is_borrowed.then(|| quote!(&));
            (
                Some(quote!(context: #library::CallContext,)),
                Some(quote!(#borrow context,)),
            )
        }
    };
    let ok = method.ok(library);
    // Where the method's return type stands, so that an error which does not convert is reported
    // there.
    let answer = quote_spanned! { method.output.span()=>
        let value: ::core::result::Result<#ok, #library::Error> =
            #library::typed::MethodResult::into_result(answer);
    };
    quote! {
        #(#conditions)*
        let each = ::std::sync::Arc::clone(&service);
        #(#conditions)*
        let router = router.route_with(
            #route,
            #library::route::RouteOptions::new().types(#request, #response)#idempotent,
            move |#extracted payload: #library::extract::Payload<#arguments>| {
                let service = ::std::sync::Arc::clone(&each);
                async move {
                    let reply = payload.reply(());
                    let #arguments { #(#names),* } = payload.value;
                    // A deprecated method is served as long as it is there.
                    #[allow(deprecated)]
                    let answer = service.#name(#passed #(#names),*).await;
                    #answer
                    ::core::result::Result::<_, #library::Error>::Ok(reply.reply(value?))
                }
            },
        );
    }
}

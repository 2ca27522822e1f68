//! One method of a service's trait, taken apart.

use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, Ident, Pat, PatType, Path, ReturnType, TraitItemFn, Type};

use crate::{camel_case, text};

/// What is needed of one method.
pub(crate) struct Method<'a> {
    pub(crate) name: &'a Ident,
    /// Those that stand on it and are not for the macro: they belong to the trait's method and to
    /// the client's.
    pub(crate) attributes: Vec<&'a syn::Attribute>,
    /// Whether it stands there that a call may be run twice.
    pub(crate) is_idempotent: bool,
    /// Those of them that decide whether the method exists at all (`cfg`): whatever is written for
    /// it goes by them.
    pub(crate) conditions: Vec<&'a syn::Attribute>,
    /// The argument that does not travel, if there is one.
    pub(crate) context: Option<ContextArgument<'a>>,
    pub(crate) names: Vec<&'a Ident>,
    pub(crate) types: Vec<&'a Type>,
    pub(crate) output: &'a Type,
}

/// The argument by which a method learns the circumstances of its call.
pub(crate) struct ContextArgument<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) ty: &'a Type,
    pub(crate) is_borrowed: bool,
}

fn fail<T>(place: &impl ToTokens, text: &str) -> syn::Result<T> {
    Err(syn::Error::new_spanned(place, text))
}

impl<'a> Method<'a> {
    pub(crate) fn parse(item: &'a TraitItemFn) -> syn::Result<Self> {
        let signature = &item.sig;
        if signature.asyncness.is_none() {
            return fail(&signature.fn_token, "methods of a service are async");
        }
        if !signature.generics.params.is_empty() {
            return fail(&signature.generics, "methods of a service have no generics");
        }
        if let Some(body) = &item.default {
            return fail(
                body,
                "methods of a service have no body: they are its schema",
            );
        }
        let mut inputs = signature.inputs.iter();
        let text = "methods of a service take &self: one service handles many calls at once";
        match inputs.next() {
            Some(FnArg::Receiver(me)) if me.reference.is_some() && me.mutability.is_none() => {}
            Some(other) => return fail(other, text),
            None => return fail(&signature.ident, text),
        }
        let mut arguments = Vec::new();
        for input in inputs {
            let FnArg::Typed(input) = input else {
                return fail(input, "unexpected self");
            };
            let Pat::Ident(name) = &*input.pat else {
                return fail(&input.pat, "arguments of a service have plain names");
            };
            arguments.push((&name.ident, input));
        }
        let context = arguments
            .first()
            .and_then(|(name, input)| context_argument(name, input));
        let travelling = &arguments[usize::from(context.is_some())..];
        for (_, input) in travelling {
            check_argument(input)?;
        }
        let ReturnType::Type(_, output) = &signature.output else {
            let text = "methods of a service return a Result, such as Result<(), postroad::Error>";
            return fail(&signature.ident, text);
        };
        let is_cfg = |attribute: &&syn::Attribute| attribute.path().is_ident("cfg");
        let (own, attributes): (Vec<_>, Vec<_>) = item.attrs.iter().partition(is_own);
        for attribute in &own {
            let text = "idempotent takes no arguments: #[idempotent]";
            let is_plain = matches!(attribute.meta, syn::Meta::Path(_));
            is_plain
                .then_some(())
                .ok_or_else(|| syn::Error::new_spanned(attribute, text))?;
        }
        Ok(Self {
            name: &signature.ident,
            attributes,
            is_idempotent: !own.is_empty(),
            conditions: item.attrs.iter().filter(is_cfg).collect(),
            context,
            names: travelling.iter().map(|(name, _)| *name).collect(),
            types: travelling.iter().map(|(_, input)| &*input.ty).collect(),
            output,
        })
    }

    /// The struct that its arguments travel in.
    pub(crate) fn arguments(&self, service: &Ident) -> Ident {
        format_ident!("{service}{}Args", camel_case(&self.name.to_string()))
    }

    /// The name of its route.
    pub(crate) fn route(&self, service: &Ident) -> String {
        format!("{service}.{}", self.name)
    }

    /// The type of its answer. Only the compiler knows it, because the return type may be an alias.
    pub(crate) fn ok(&self, library: &Path) -> Tokens {
        let output = self.output;
        quote_spanned!(output.span()=> <#output as #library::typed::MethodResult>::Ok)
    }

    /// What is to be set of a call or a route because of `#[idempotent]`.
    pub(crate) fn idempotent(&self) -> Option<Tokens> {
        self.is_idempotent.then(|| quote!(.idempotent()))
    }

    pub(crate) fn types_as_text(&self) -> (String, String) {
        let fields = self.names.iter().zip(&self.types);
        let fields: Vec<String> = fields
            .map(|(name, ty)| format!("{name}: {}", text(ty)))
            .collect();
        let answer = first_argument(self.output).unwrap_or(self.output);
        (format!("{{{}}}", fields.join(", ")), text(answer))
    }
}

/// Whether an attribute is for the macro alone.
fn is_own(attribute: &&syn::Attribute) -> bool {
    attribute.path().is_ident("idempotent")
}

/// The first argument, if its type is `CallContext` or `&CallContext`. A macro sees names alone, so
/// an alias of it is taken for an argument that travels.
fn context_argument<'a>(name: &'a Ident, input: &'a PatType) -> Option<ContextArgument<'a>> {
    let (is_borrowed, inner) = match &*input.ty {
        Type::Reference(reference) => (true, &*reference.elem),
        owned => (false, owned),
    };
    let Type::Path(path) = inner else {
        return None;
    };
    let is_it = path.path.segments.last()?.ident == "CallContext";
    is_it.then_some(ContextArgument {
        name,
        ty: &input.ty,
        is_borrowed,
    })
}

fn check_argument(input: &PatType) -> syn::Result<()> {
    match &*input.ty {
        Type::Reference(reference) => {
            let inner = &reference.elem;
            let text = match text(inner).as_str() {
                "str" => {
                    "arguments of a service travel, so they are owned: String, not &str".into()
                }
                inner => format!("arguments of a service travel, so they are owned: not &{inner}"),
            };
            fail(&input.ty, &text)
        }
        Type::ImplTrait(_) => fail(&input.ty, "arguments of a service have types with names"),
        Type::Path(path)
            if path
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident == "CallContext") =>
        {
            fail(&input.ty, "CallContext is the first argument after &self")
        }
        _ => Ok(()),
    }
}

/// `T` of `Result<T, E>`, or of an alias that is written like it.
fn first_argument(output: &Type) -> Option<&Type> {
    let Type::Path(path) = output else {
        return None;
    };
    let syn::PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments
    else {
        return None;
    };
    match arguments.args.first()? {
        syn::GenericArgument::Type(ok) => Some(ok),
        _ => None,
    }
}

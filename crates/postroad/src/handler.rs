//! What can handle a request: an async function of extractors.

use std::any::type_name;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use postroad_proto::session::Reply;

use crate::error::Error;
use crate::extract::{FromRequest, IntoReply, Request};

/// An async function of at most six extractors whose output is an answer.
///
/// `A` is the tuple of its arguments; you never name it.
///
/// ```
/// use postroad::extract::State;
/// use postroad::{Error, Json, Router, code};
///
/// async fn divide(State(max): State<i64>, Json((a, b)): Json<(i64, i64)>)
///     -> Result<Json<i64>, Error>
/// {
///     let quotient = a.checked_div(b).filter(|quotient| *quotient <= max);
///     quotient.map(Json).ok_or_else(|| Error::new(code!("CLC-E-001"), "there is no such number"))
/// }
///
/// let router = Router::with_state(1000_i64).route("math/divide", divide);
/// # let _ = router;
/// ```
///
/// # When it does not compile
/// The compiler names the closure or function, and not always the part of it that is wrong. Check
/// in this order: every argument is an extractor ([`FromRequest`]); `State<S>` has the router's own
/// state type; the output is an answer ([`IntoReply`]), so a value of your own is in `Json`; there
/// are at most six arguments; nothing that is not `Send` is held across an `await`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle a route of a router with state `{S}`",
    label = "not a handler",
    note = "a handler is an async function of at most six extractors (`Json<T>`, `Payload<T>`, \
            `State<{S}>`, `Metadata`, `Peer`, `CallContext`, `Bytes`, `String`, ..), which answers \
            with `Json<T>`, `Bytes`, `String`, `()` or the like, or a `Result` of these",
    note = "a value of your own goes in `Json`, both ways: `async |Json(n): Json<u32>| Json(n)`",
    note = "its future must be `Send`: hold no `Rc` and no `MutexGuard` across `.await`"
)]
pub trait Handler<A, S>: Clone + Send + Sync + 'static {
    /// Runs it.
    fn handle(
        &self,
        request: &mut Request,
        state: &S,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + 'static + use<Self, A, S>;

    /// The types of its extractors, for `postroad ls`.
    fn request_type() -> String;

    /// The type of its answer.
    fn response_type() -> String;
}

pin_project! {
    /// The handler's future, or why there is none; its output as an answer.
    struct Handling<F> {
        #[pin]
        future: Option<F>,
        error: Option<Error>,
    }
}

impl<F> Handling<F> {
    #[inline]
    fn started(future: F) -> Self {
        Self {
            future: Some(future),
            error: None,
        }
    }

    fn refused(error: Error) -> Self {
        Self {
            future: None,
            error: Some(error),
        }
    }
}

impl<F: Future<Output: IntoReply>> Future for Handling<F> {
    type Output = Result<Reply, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match this.future.as_pin_mut() {
            Some(future) => ready!(future.poll(cx)).into_reply(),
            None => Err(this
                .error
                .take()
                .unwrap_or_else(|| Error::bad_request("polled twice"))),
        })
    }
}

macro_rules! handlers {
    ($($argument:ident)* ; $($last:ident)?) => {
        impl<S, F, Fut, Out, $($argument,)* $($last)?> Handler<($($argument,)* $($last,)?), S> for F
        where
            S: Clone + Send + Sync + 'static,
            F: Fn($($argument,)* $($last)?) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Out> + Send + 'static,
            Out: IntoReply + 'static,
            $($argument: FromRequest<S> + Send + 'static,)*
            $($last: FromRequest<S> + Send + 'static)?
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "for every arity")]
            #[inline]
            fn handle(
                &self,
                request: &mut Request,
                state: &S,
            ) -> impl Future<Output = Result<Reply, Error>>
            + Send + 'static + use<S, F, Fut, Out, $($argument,)* $($last)?> {
                // What is extracted goes straight into the handler's future.
                $(let $argument = match $argument::from_request(request, state) {
                    Ok(argument) => argument,
                    Err(error) => return Handling::refused(error),
                };)*
                $(let $last = match $last::from_last(request, state) {
                    Ok(last) => last,
                    Err(error) => return Handling::refused(error),
                };)?
                Handling::started(self($($argument,)* $($last)?))
            }

            fn request_type() -> String {
                let all: Vec<String> = vec![
                    $(short_type_name::<$argument>(),)*
                    $(short_type_name::<$last>())?
                ];
                all.join(", ")
            }

            fn response_type() -> String {
                short_type_name::<Out>()
            }
        }
    };
}

handlers!(;);
handlers!(;A);
handlers!(A; B);
handlers!(A B; C);
handlers!(A B C; D);
handlers!(A B C D; E);
handlers!(A B C D E; G);

/// The last part of a type's path, for people.
fn short_type_name<T>() -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in type_name::<T>().chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if c == ':' {
            // What was collected is a module's name.
            word.clear();
        } else {
            short.push_str(&word);
            word.clear();
            short.push(c);
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_lose_their_paths() {
        assert_eq!(
            short_type_name::<Option<Vec<std::time::Duration>>>(),
            "Option<Vec<Duration>>"
        );
    }
}

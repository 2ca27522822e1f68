//! What can handle a request: an async function of extractors.

use std::future::Future;

use postroad_proto::error::ErrorBody;
use postroad_proto::session::Reply;

use crate::extract::{FromRequest, IntoReply, Request};
use crate::router::short_type_name;

/// An async function of at most six extractors whose output is an answer.
///
/// `A` is the tuple of its arguments; you never name it.
pub trait Handler<A, S>: Clone + Send + Sync + 'static {
    /// Runs it.
    fn handle(
        self,
        request: Request,
        state: S,
    ) -> impl Future<Output = Result<Reply, ErrorBody>> + Send + 'static;

    /// The types of its extractors, for `postroad ls`.
    fn request_type() -> String;

    /// The type of its answer.
    fn response_type() -> String;
}

macro_rules! handlers {
    ($($argument:ident)*) => {
        impl<S, F, Fut, Out, $($argument,)*> Handler<($($argument,)*), S> for F
        where
            S: Clone + Send + Sync + 'static,
            F: Fn($($argument,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Out> + Send + 'static,
            Out: IntoReply + 'static,
            $($argument: FromRequest<S> + Send + 'static,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "for every arity")]
            async fn handle(self, mut request: Request, state: S) -> Result<Reply, ErrorBody> {
                $(let $argument = $argument::from_request(&mut request, &state)?;)*
                // The request's own memory is free while the handler runs.
                drop(request);
                self($($argument,)*).await.into_reply().map_err(ErrorBody::from)
            }

            fn request_type() -> String {
                let all: Vec<String> = vec![$(short_type_name::<$argument>(),)*];
                all.join(", ")
            }

            fn response_type() -> String {
                short_type_name::<Out>()
            }
        }
    };
}

handlers!();
handlers!(A);
handlers!(A B);
handlers!(A B C);
handlers!(A B C D);
handlers!(A B C D E);
handlers!(A B C D E G);

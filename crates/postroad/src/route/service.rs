//! Routes as services of tower, so that its layers can be put around them.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_proto::code::{Code, Retry};
use postroad_proto::session::Reply;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::{BoxError, Layer, Service};

use super::Route;
use crate::error::Error;
use crate::extract::Request;
use crate::transport::BoxFuture;

/// What a layer is put around: the handler of one route, with the hooks and layers within.
///
/// It is always ready: how many requests are at work is bounded by the server.
#[derive(Clone)]
pub struct RouteService(Arc<Route>);

impl Service<Request> for RouteService {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.0.run(request)
    }
}

impl fmt::Debug for RouteService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = &self.0.describes.route;
        f.debug_tuple("RouteService").field(route).finish()
    }
}

impl Route {
    /// A route of the same name, with this layer around it.
    pub(crate) fn layered<L>(self: &Arc<Self>, layer: &L) -> Arc<Self>
    where
        L: Layer<RouteService>,
        L::Service: Service<Request, Response = Reply, Error: Into<BoxError>>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        let service = layer.layer(RouteService(Arc::clone(self)));
        let make = move |request: &mut Request| {
            let (mut service, request) = (service.clone(), request.take());
            async move {
                let answer_of = |error: <L::Service as Service<Request>>::Error| {
                    let error: BoxError = error.into();
                    answer_of(&*error)
                };
                let ready = poll_fn(|cx| service.poll_ready(cx));
                ready.await.map_err(answer_of)?;
                service.call(request).await.map_err(answer_of)
            }
        };
        Arc::new(Self::new(make, self.describes.clone()))
    }
}

/// What a caller is answered when a layer has failed: an [`Error`] as it is, wherever it stands
/// among the causes.
fn answer_of(error: &(dyn StdError + 'static)) -> Error {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let known = causes.find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return Some(error.clone());
        }
        if cause.is::<Elapsed>() {
            let text = "the route has not answered in the time that it has";
            return Some(Error::of(Code::DEADLINE, text));
        }
        let is_shed = cause.is::<Overloaded>();
        is_shed.then(|| {
            let error = Error::of(Code::OVERLOADED, "the route has as much to do as it can");
            error.with_retry(Retry::Elsewhere, Duration::ZERO)
        })
    });
    known.unwrap_or_else(|| Error::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code;

    #[derive(Debug, thiserror::Error)]
    #[error("a layer has failed")]
    struct Wrapped(#[source] BoxError);

    #[test]
    fn errors_of_layers_become_answers_that_say_whether_to_try_again() {
        let answer = |error: BoxError| answer_of(&Wrapped(error));
        let own = Error::new(code!("SHP-E-001"), "closed");
        assert_eq!(answer(own.clone().into()), own);
        assert_eq!(answer(Elapsed::new().into()).code(), Code::DEADLINE);
        let shed = answer(Overloaded::new().into());
        assert_eq!(
            (shed.code(), shed.retry()),
            (Code::OVERLOADED, Retry::Elsewhere)
        );
        let other = answer("broken".into());
        assert_eq!(other.code(), Code::INTERNAL);
        assert_eq!(other.message(), "a layer has failed");
    }
}

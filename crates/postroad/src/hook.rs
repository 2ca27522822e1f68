//! Hooks: what runs around every request of a server, or of a router's routes.
//!
//! ```text
//! a connection, Routes::call -> hook added last -> .. -> hook added first -> extractors, handler
//!                                    |                        |
//!                                    +------ an error --------+--> the answer
//! ```
//!
//! A hook is put around the routes when it is added. A route without hooks is what it was, so it
//! costs nothing.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::Error;
use crate::extract::{Reply, Request};
use crate::route::Route;
use crate::transport::BoxFuture;

/// What a hook has wrapped: the hooks within it, and the handler.
pub struct Next(Arc<Route>);

impl Next {
    /// Hands the request on.
    ///
    /// Cancellation safe: dropping it drops the handler.
    ///
    /// # Errors
    /// What the handler, or a hook within this one, answers with.
    pub async fn run(self, request: Request) -> Result<Reply, Error> {
        self.0.run(request).await
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Next")
            .field(&self.0.describes.route)
            .finish()
    }
}

/// A hook whose type is forgotten.
type Wrapping = dyn Fn(Request, Next) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync;

/// A hook as a table of routes keeps it, because routes that are added later get it too.
#[derive(Clone)]
pub(crate) struct Around(Arc<Wrapping>);

impl Around {
    pub(crate) fn new<F, Fut>(hook: F) -> Self
    where
        F: Fn(Request, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        Self(Arc::new(move |request, next| Box::pin(hook(request, next))))
    }

    /// A hook that lets requests pass, as it gives them back, or refuses them.
    pub(crate) fn before<F, Fut>(hook: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Request, Error>> + Send + 'static,
    {
        Self::new(move |request, next| {
            let passed = hook(request);
            async move { next.run(passed.await?).await }
        })
    }

    /// A route of the same name, with this hook around it.
    pub(crate) fn surround(&self, route: &Arc<Route>) -> Arc<Route> {
        let (hook, inner) = (self.clone(), Arc::clone(route));
        let make = move |request: &mut Request| hook.0(request.take(), Next(Arc::clone(&inner)));
        Arc::new(Route::new(make, route.describes.clone()))
    }
}

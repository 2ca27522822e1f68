//! Where a client has its token from.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use crate::transport::BoxFuture;

/// Longest file with a token, bytes.
const FILE_MAX: u64 = 16 * 1024;

/// What makes tokens.
type Make = dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync;

/// Where a client has its token from: a text, a file, or a function of its own. It is asked before
/// each connection, and while one is open it is asked for a new token in time before the old one
/// expires.
///
/// ```
/// use postroad::identity::TokenSource;
///
/// let fixed = TokenSource::from("eyJhbGciOi...");
/// let file = TokenSource::file("/var/run/secrets/token");
/// let own = TokenSource::from_fn(async || Ok::<_, std::io::Error>("eyJhbGciOi...".to_owned()));
/// assert!(!format!("{fixed:?}").contains("eyJ"));
/// # let _ = (file, own);
/// ```
#[derive(Clone)]
pub struct TokenSource(Kind);

#[derive(Clone)]
enum Kind {
    Text(Arc<str>),
    File(Arc<PathBuf>),
    Made(Arc<Make>),
}

impl TokenSource {
    /// The token in a file, without the white space around it. The file is read each time that the
    /// token is asked for.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(Arc::new(path.into())))
    }

    /// What a function makes, each time that the token is asked for. Its future may be dropped.
    #[must_use]
    pub fn from_fn<F, Fut, E>(make: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        let make = move || -> BoxFuture<'static, Result<String, String>> {
            let making = make();
            Box::pin(async move { making.await.map_err(|error| error.to_string()) })
        };
        Self(Kind::Made(Arc::new(make)))
    }

    /// The token now.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn token(&self) -> Result<String, String> {
        match &self.0 {
            Kind::Text(text) => Ok(text.to_string()),
            Kind::Made(make) => make().await,
            Kind::File(path) => {
                let mut file = crate::watched_file::WatchedFile::new((**path).clone(), FILE_MAX);
                let text = file.look()?.unwrap_or_default();
                match text.trim() {
                    "" => Err(format!("{}: no token in it", path.display())),
                    token => Ok(token.to_owned()),
                }
            }
        }
    }

    /// Whether another token may come from it.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.0, Kind::Text(_))
    }
}

impl From<&str> for TokenSource {
    fn from(token: &str) -> Self {
        Self(Kind::Text(token.trim().into()))
    }
}

impl From<String> for TokenSource {
    fn from(token: String) -> Self {
        Self::from(&*token)
    }
}

impl fmt::Debug for TokenSource {
    /// Without the token: what is debugged may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Text(_) => f.write_str("TokenSource(text)"),
            Kind::File(path) => write!(f, "TokenSource(file {})", path.display()),
            Kind::Made(_) => f.write_str("TokenSource(function)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_comes_from_a_text_a_file_or_a_function() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "  one\n").unwrap();
        let file = TokenSource::file(&path);
        assert_eq!(file.token().await.as_deref(), Ok("one"));
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.token().await.as_deref(), Ok("two"));
        std::fs::write(&path, " \n").unwrap();
        assert!(file.token().await.unwrap_err().contains("no token in it"));
        let made = TokenSource::from_fn(async || Err::<String, _>("no login"));
        assert_eq!(made.token().await, Err("no login".to_owned()));
        assert!(TokenSource::from("a").is_fixed() && !made.is_fixed());
    }
}

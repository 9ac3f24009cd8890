//! Bodies within a limit.

use std::{
    future::{Future, Ready, ready},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    web::{self, Data},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    app::App,
    byte_budget::{ByteBudget, TakenBytes},
    http::{
        error::ApiError,
        idempotency::{BodyHash, IDEMPOTENCY_KEY},
        input, route_rules,
    },
};

/// In bytes.
pub const MAX_BODY: usize = 1 << 20;
/// The same on routes that take many things at once.
pub const MAX_BULK_BODY: usize = 8 << 20;
/// The same on routes that ask for no caller.
const MAX_OPEN_BODY: usize = 16 << 10;

/// The longest time for a body to arrive.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Body<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let mut bytes = whole(&request, payload).await?;
            let tree = input::json(&mut bytes)?;
            if request.headers().contains_key(IDEMPOTENCY_KEY) {
                request
                    .extensions_mut()
                    .insert(BodyHash::of_meaning(tree.meaning()));
            }
            Ok(Self(input::read(&tree)?))
        })
    }
}

/// A body that changes something, in which a null removes what is there.
pub struct PatchBody<T> {
    pub body: T,
    /// The fields that are null.
    pub cleared: Vec<String>,
}

impl<T: DeserializeOwned + 'static> FromRequest for PatchBody<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let mut bytes = whole(&request, payload).await?;
            let tree = input::json(&mut bytes)?;
            let cleared = tree.null_fields();
            if request.headers().contains_key(IDEMPOTENCY_KEY) {
                let meaning = tree.meaning_with(&cleared);
                request
                    .extensions_mut()
                    .insert(BodyHash::of_meaning(meaning));
            }
            Ok(Self {
                body: input::read(&tree)?,
                cleared,
            })
        })
    }
}

/// A body that may be absent. Then it has no `Content-Type`.
pub struct OptionalBody<T>(pub Option<T>);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalBody<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let has_type = request.headers().contains_key(CONTENT_TYPE);
        let body = Body::from_request(request, payload);
        Box::pin(async move {
            match body.await {
                Ok(Body(body)) => Ok(Self(Some(body))),
                Err(ApiError::NotJson) if !has_type => Ok(Self(None)),
                Err(error) => Err(error),
            }
        })
    }
}

/// A JSON object that is passed on unchanged and wiped from memory when it is dropped.
pub struct JsonObject(pub Zeroizing<Vec<u8>>);

impl FromRequest for JsonObject {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let bytes = whole(&request, payload).await?;
            input::check_object(&bytes)?;
            Ok(Self(bytes))
        })
    }
}

/// A form that the handler reads piece by piece. `T` describes it.
pub struct FormBody<T> {
    pub payload: web::Payload,
    form: PhantomData<fn() -> T>,
}

impl<T> FromRequest for FormBody<T> {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = web::Payload::from_request(request, payload).into_inner();
        ready(payload.map(|payload| Self {
            payload,
            form: PhantomData,
        }))
    }
}

/// The whole body of a request whose header says JSON. It may hold a secret, so it is wiped when it is dropped.
async fn whole(
    request: &HttpRequest,
    mut payload: Payload,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let limits = BodyLimits::of(request)?;
    let declared = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    limits.check(declared.unwrap_or(0))?;
    let read = limits.read(&mut payload, declared.unwrap_or(0));
    let (bytes, taken) = timeout(DEADLINE, read)
        .await
        .map_err(|_| ApiError::field("The body came too slowly"))??;
    if !is_json(request) {
        return Err(ApiError::NotJson);
    }
    let mut extensions = request.extensions_mut();
    extensions.insert(taken); // the request holds what was in its body until it is answered
    drop(extensions);
    Ok(bytes)
}

/// What a body may take.
struct BodyLimits {
    most: usize,
    budget: ByteBudget,
}

impl BodyLimits {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let app = request
            .app_data::<Data<App>>()
            .ok_or_else(|| ApiError::Internal("the app is not wired".into()))?;
        let rule = route_rules::of(request).unwrap_or_default();
        let (most, budget) = if rule.is_public {
            (MAX_OPEN_BODY, &app.body_bytes.open_routes)
        } else if rule.is_bulk {
            (MAX_BULK_BODY, &app.body_bytes.other_routes)
        } else {
            (MAX_BODY, &app.body_bytes.other_routes)
        };
        Ok(Self {
            most,
            budget: budget.clone(),
        })
    }

    fn check(&self, bytes: usize) -> Result<(), ApiError> {
        if bytes > self.most {
            return Err(ApiError::TooLarge(self.most as u64));
        }
        Ok(())
    }

    /// Takes bytes from the budget as they come, and not as they are announced: a client that
    /// sends nothing must not use it up.
    async fn read(
        &self,
        payload: &mut Payload,
        declared: usize,
    ) -> Result<(Zeroizing<Vec<u8>>, TakenBytes), ApiError> {
        const CROWDED: ApiError = ApiError::Crowded("Too many bodies are being received");
        let mut taken = self.budget.take(0).ok_or(CROWDED)?;
        // With the length known, the buffer never moves as it grows, which would leave copies of a
        // secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(declared));
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| ApiError::field("The body broke off"))?;
            self.check(bytes.len() + chunk.len())?;
            taken.add(self.budget.take(chunk.len()).ok_or(CROWDED)?);
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, taken))
    }
}

fn is_json(request: &HttpRequest) -> bool {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

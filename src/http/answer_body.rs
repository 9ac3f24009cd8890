//! The bodies of answers, on their way out. A connection is told when its answer is handed over.
//! Large bodies go out in small chunks, because the dispatcher copies each chunk as a whole, and a
//! client may leave its copy unread. All large bodies together are bounded.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::{ConnectionType, Method, Version},
    web::Bytes,
};

use crate::{
    byte_budget::{ByteBudget, TakenBytes},
    connections::activity::AnsweredRequest,
    http::error::ApiError,
};

/// The most bytes of a chunk: the size of the dispatcher's own buffer.
const CHUNK: usize = 32 * 1024;
/// Smaller bodies are not counted.
const SMALL: u64 = 64 * 1024;

pub struct AnswerBody {
    body: BoxBody,
    size: BodySize,
    /// The rest of a chunk that was too large.
    rest: Bytes,
    _taken: Option<TakenBytes>,
    _answered: Option<AnsweredRequest>,
}

/// What the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Only the head of the answer to GET (RFC 9110, section 9.3.2).
    Head,
    Whole,
}

/// Takes an answer over. An answer to HTTP/1.0 is never chunked (RFC 9112, section 6.1). Without room for its body a read is refused; it can be sent again. Commands
/// are done by then, and their answers are small.
pub fn hand_over<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
    budget: Option<&ByteBudget>,
    answered: Option<AnsweredRequest>,
    wanted: Wanted,
) -> ServiceResponse<AnswerBody> {
    let mut response = response.map_into_boxed_body();
    if let Wanted::Head = wanted {
        return response.map_body(|_, body| AnswerBody::new(BoxBody::new(()), body.size()));
    }
    if response.request().head().version < Version::HTTP_11
        && response.response().body().size() == BodySize::Stream
    {
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close); // the end of the connection ends the body
    }
    let is_read = response.request().method() == Method::GET;
    let (response, taken) = match (response.response().body().size(), budget) {
        (BodySize::Sized(bytes), Some(budget)) if is_read && bytes > SMALL => {
            match usize::try_from(bytes)
                .ok()
                .and_then(|bytes| budget.take(bytes))
            {
                None => {
                    let refused = ApiError::Crowded("Too many large answers are on their way");
                    (response.into_response(refused.error_response()), None)
                }
                taken => (response, taken),
            }
        }
        _ => (response, None),
    };
    response.map_body(|_, body| {
        let size = body.size();
        AnswerBody {
            _taken: taken,
            _answered: answered,
            ..AnswerBody::new(body, size)
        }
    })
}

impl AnswerBody {
    fn new(body: BoxBody, size: BodySize) -> Self {
        Self {
            body,
            size,
            rest: Bytes::new(),
            _taken: None,
            _answered: None,
        }
    }
}

impl MessageBody for AnswerBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.rest = chunk,
                other => return other,
            }
        }
        let chunk = self.rest.len().min(CHUNK);
        Poll::Ready(Some(Ok(self.rest.split_to(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{HttpResponse, body::to_bytes, test::TestRequest};

    use super::*;

    fn answer(budget: &ByteBudget, bytes: usize) -> ServiceResponse<AnswerBody> {
        let response = HttpResponse::Ok().body(vec![7; bytes]);
        let response = TestRequest::get().to_srv_response(response);
        hand_over(response, Some(budget), None, Wanted::Whole)
    }

    #[tokio::test]
    async fn large_answers_are_bounded_together_and_small_ones_are_not() {
        let budget = ByteBudget::new(250_000);
        let first = answer(&budget, 100_000);
        let second = answer(&budget, 100_000);
        assert!(first.status().is_success() && second.status().is_success());
        let refused = answer(&budget, 100_000);
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("Retry-After"));
        assert_eq!(answer(&budget, 50_000).status(), 200);
        drop(first);
        assert_eq!(answer(&budget, 100_000).status(), 200);
    }

    #[tokio::test]
    async fn a_large_body_goes_out_whole_in_small_chunks() {
        let (_, mut body) = answer(&ByteBudget::new(250_000), 100_000)
            .into_parts()
            .1
            .into_parts();
        let mut sizes = Vec::new();
        let chunks = std::future::poll_fn(|cx| {
            while let Poll::Ready(chunk) = Pin::new(&mut body).poll_next(cx) {
                match chunk {
                    Some(chunk) => sizes.push(chunk.unwrap().len()),
                    None => return Poll::Ready(()),
                }
            }
            Poll::Pending
        });
        chunks.await;
        assert_eq!(sizes, [32_768, 32_768, 32_768, 1696]);
        let whole = answer(&ByteBudget::new(0), 10).into_body();
        assert_eq!(to_bytes(whole).await.unwrap().len(), 10);
    }
}

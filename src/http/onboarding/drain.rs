//! Reads the rest of a body whose request was refused in the middle. Unread, the rest would stand before the next
//! request on its connection. A connection that is closed over unread bytes may be reset before the client has read
//! the refusal.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse, ResponseError,
    error::PayloadError,
    http::ConnectionType,
    web::{Bytes, Payload},
};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use crate::http::error::ApiError;

/// Reads at most this much, for at most this long. Then the connection is closed all the same.
const MOST: usize = 8 << 20;
const LONGEST: Duration = Duration::from_secs(10);

/// A body. Each clone reads on where the others stopped.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<Payload>>);

impl Shared {
    pub fn new(body: Payload) -> Self {
        Self(Rc::new(RefCell::new(body)))
    }

    pub async fn refuse(mut self, error: &ApiError) -> HttpResponse {
        let mut response = error.error_response();
        if !timeout(LONGEST, self.read_to_end()).await.unwrap_or(false) {
            response
                .head_mut()
                .set_connection_type(ConnectionType::Close);
        }
        response
    }

    async fn read_to_end(&mut self) -> bool {
        let mut read = 0;
        while let Some(bytes) = self.next().await {
            read += bytes.map_or(MOST, |bytes| bytes.len());
            if read >= MOST {
                return false;
            }
        }
        true
    }
}

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next_unpin(context)
    }
}

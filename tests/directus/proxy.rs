//! Stands between genie and Directus. It forwards and counts requests, and treats requests of one
//! kind as a test asks.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::StatusCode, web};
use tokio::sync::watch;

/// The treatment of a request.
#[derive(Debug, Clone)]
pub enum Does {
    /// Kept back from Directus; nobody ever answers.
    HoldRequest,
    /// Forwarded; the answer is kept back.
    HoldAnswer,
    /// Answered without asking Directus.
    Answer(u16, String),
}

#[derive(Default)]
struct Inner {
    url: String,
    seen: Mutex<Vec<Seen>>,
    /// Applies to requests of this method and path.
    rule: Mutex<Option<(String, String, Does)>>,
    /// The number of requests that the rule was applied to.
    held: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

pub struct Proxy {
    pub url: String,
    inner: Arc<Inner>,
}

impl Proxy {
    pub async fn start(url: &str) -> Self {
        let inner = Arc::new(Inner {
            url: url.to_owned(),
            ..Inner::default()
        });
        let (tell, told) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&inner);
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let data = web::Data::from(shared);
                let client = web::Data::new(
                    reqwest::Client::builder()
                        .pool_max_idle_per_host(0)
                        .build()
                        .unwrap(),
                );
                let server = HttpServer::new(move || {
                    let app = App::new().app_data(data.clone()).app_data(client.clone());
                    app.app_data(web::PayloadConfig::new(4 << 20))
                        .default_service(web::to(pass))
                });
                let server = server
                    .workers(1)
                    .disable_signals()
                    .bind("127.0.0.1:0")
                    .unwrap();
                tell.send(server.addrs()[0]).unwrap();
                server.run().await.unwrap();
            });
        });
        Self {
            url: format!("http://{}", told.await.unwrap()),
            inner,
        }
    }

    /// The number of requests with this method and path.
    pub fn count(&self, line: &str) -> usize {
        self.inner
            .seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| seen.line == line)
            .count()
    }

    /// The last request with this method and path.
    pub fn last(&self, line: &str) -> Seen {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter()
            .rfind(|seen| seen.line == line)
            .unwrap_or_else(|| panic!("no {line}: {seen:?}"))
            .clone()
    }

    /// From now on treats requests of that kind so.
    pub fn on(&self, method: &str, path: &str, does: Does) {
        *self.inner.rule.lock().unwrap() = Some((method.to_owned(), path.to_owned(), does));
    }

    pub fn pass_all(&self) {
        *self.inner.rule.lock().unwrap() = None;
    }

    /// Waits until the rule was applied to this many requests.
    pub async fn until_held(&self, count: usize) {
        let mut held = self.inner.held.subscribe();
        let wait = tokio::time::timeout(
            Duration::from_secs(30),
            held.wait_for(|held| *held >= count),
        );
        wait.await.expect("the request arrives").unwrap();
    }
}

async fn pass(
    request: HttpRequest,
    body: web::Bytes,
    inner: web::Data<Inner>,
    client: web::Data<reqwest::Client>,
) -> HttpResponse {
    let method = request.method().as_str();
    let path = request.path();
    let text =
        |value: &actix_web::http::header::HeaderValue| value.to_str().unwrap_or("").to_owned();
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect();
    inner.seen.lock().unwrap().push(Seen {
        line: format!("{method} {path}"),
        headers,
    });
    let rule = inner.rule.lock().unwrap().clone();
    let does = rule
        .filter(|(of, at, _)| of == method && at == path)
        .map(|(_, _, does)| does);
    match does {
        Some(Does::Answer(status, body)) => {
            inner.held.send_modify(|held| *held += 1);
            return HttpResponse::build(StatusCode::from_u16(status).unwrap())
                .content_type("application/json")
                .insert_header(("Retry-After", "7"))
                .body(body);
        }
        Some(Does::HoldRequest) => {
            inner.held.send_modify(|held| *held += 1);
            return std::future::pending().await;
        }
        Some(Does::HoldAnswer) | None => {}
    }
    let mut passed = client
        .request(
            method.parse().unwrap(),
            format!("{}{}", inner.url, request.uri()),
        )
        .body(body.to_vec());
    for (name, value) in request.headers() {
        if !["host", "content-length", "connection"].contains(&name.as_str()) {
            passed = passed.header(name.as_str(), value.as_bytes());
        }
    }
    let Ok(answer) = passed.send().await else {
        return HttpResponse::BadGateway().finish();
    };
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status().as_u16()).unwrap());
    for name in ["content-type", "content-disposition", "retry-after"] {
        if let Some(value) = answer.headers().get(name) {
            response.insert_header((name, value.as_bytes()));
        }
    }
    let body = answer.bytes().await.unwrap_or_default();
    if let Some(Does::HoldAnswer) = does {
        inner.held.send_modify(|held| *held += 1);
        return std::future::pending().await;
    }
    response.body(body)
}

//! A bare actix-web server in its own process: it answers every request with the same bytes, and
//! knows nobody.

use std::process::Stdio;

use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::setup::Measured;

/// The subcommand of the process.
pub const CHILD: &str = "bare-http";

/// It is killed when this is dropped.
pub struct BareServer {
    _process: Child,
    pub address: String,
}

impl BareServer {
    pub async fn start(body: &[u8]) -> Measured<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([CHILD, std::str::from_utf8(body)?])
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = process.stdout.take().ok_or("no standard output")?;
        let address = BufReader::new(lines).lines().next_line().await?;
        Ok(Self {
            _process: process,
            address: address.ok_or("the bare server stopped")?,
        })
    }
}

/// Serves until the process is killed, on a thread of its own: an actix system is bound to one.
pub fn serve(body: String) -> Measured<()> {
    actix_web::rt::System::new().block_on(async move {
        let answer = move |body: web::Data<String>| async move {
            HttpResponse::Ok()
                .content_type("application/json")
                .body(body.get_ref().clone())
        };
        let data = web::Data::new(body);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .default_service(web::to(answer))
        });
        let server = server.bind(("127.0.0.1", 0))?;
        println!("{}", server.addrs()[0]);
        Ok(server.run().await?)
    })
}

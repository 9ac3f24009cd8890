"""A model server that answers every question with two words, in Ollama's protocol. Prints its port."""

import http.server
import json

ANSWER = [
    {"message": {"role": "assistant", "content": "Hello"}, "done": False},
    {"message": {"role": "assistant", "content": " there"}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
     "prompt_eval_count": 7, "eval_count": 2, "eval_duration": 1000000},
]  # fmt: skip


class Model(http.server.BaseHTTPRequestHandler):
    def answer(self, content_type, body):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer("application/json", b'{"version": "0.6.0", "models": []}')

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        lines = [json.dumps({"model": asked.get("model"), "created_at": "2026-01-01T00:00:00Z"} | line) for line in ANSWER]
        self.answer("application/x-ndjson", "".join(f"{line}\n" for line in lines).encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_port, flush=True)
server.serve_forever()

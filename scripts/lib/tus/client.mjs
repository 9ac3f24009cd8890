// An upload by the official client of tus, for tests/genie/tus.rs.
//
//   node client.mjs begin ENDPOINT TOKEN FILE BYTES   uploads, and breaks off after so many bytes
//   node client.mjs go-on ADDRESS TOKEN FILE          goes on, to the end
//
// The last line is what happened, as JSON.
import { readFileSync } from "node:fs";
import { Upload } from "tus-js-client";

const [how, address, token, path, bytes] = process.argv.slice(2);
const told = { offset: null, file: null, address: null, asked: [] };

function tell() {
  console.log(JSON.stringify(told));
  process.exit(0);
}

const upload = new Upload(readFileSync(path), {
  endpoint: how === "begin" ? address : undefined,
  uploadUrl: how === "go-on" ? address : undefined,
  headers: { Authorization: `Bearer ${token}` },
  metadata: { filename: "my film.png", filetype: "video/nonsense" },
  retryDelays: null,
  onAfterResponse(request, response) {
    told.asked.push(`${request.getMethod()} ${response.getStatus()}`);
    told.file = response.getHeader("Genie-File") ?? told.file;
    if (request.getMethod() === "HEAD") {
      told.offset = Number(response.getHeader("Upload-Offset"));
    }
  },
  onProgress(sent) {
    if (how === "begin" && sent >= Number(bytes)) {
      told.address = upload.url;
      upload.abort(false).then(tell);
    }
  },
  onError(error) {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess() {
    told.address = upload.url;
    tell();
  },
});
upload.start();

// genie over HTTP. A worker reports what it has done and claims its next jobs in one request.

import { Pool } from 'undici';

/** The most jobs that a worker holds at once. */
const CLAIMED = 10;
/** A claim waits so long for a job. */
const WAIT_MS = 1000;
const JOB = { operation: 'resize_image', params: { width: 100, height: 100 }, input_url: 'https://example.com/a.jpg' };

export async function open() {
  const pool = new Pool(process.env.GENIE, { connections: 128, pipelining: 1 });
  const tokens = JSON.parse(process.env.TOKENS);
  const server = { 'x-rbac-sync-secret': process.env.SECRET };
  // The handler wants the payload, which does not travel: params are checked at the door.
  const payloads = new Map();
  const early = new Map();
  let callers = 0;
  let workers = [];
  let isWorking = false;

  const post = async (path, headers, body) => {
    const answer = await pool.request({
      method: 'POST',
      path,
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    const text = await answer.body.text();
    if (answer.statusCode !== 200) throw new Error(`${path}: ${answer.statusCode} ${text.slice(0, 300)}`);
    return JSON.parse(text);
  };
  const nextUser = () => ({ authorization: `Bearer ${tokens[callers++ % tokens.length]}` });
  const enqueued = (job, payload) => {
    const handle = early.get(job);
    if (!handle) return payloads.set(job, payload);
    early.delete(job);
    return handle(payload);
  };
  const started = (job, handle) => {
    if (!payloads.has(job)) return early.set(job, handle); // its enqueue is not answered yet
    handle(payloads.get(job));
    return payloads.delete(job);
  };

  const worker = async (name, handle) => {
    let reports = [];
    while (isWorking || reports.length > 0) {
      const claim = { queues: ['media-jobs'], worker_id: name, max: CLAIMED, wait_ms: WAIT_MS };
      const answer = await post('/api/worker/report', server, isWorking ? { reports, claim } : { reports });
      const refused = answer.reports.find((report) => !report.ok);
      if (refused) throw new Error(`a report was refused: ${JSON.stringify(refused)}`);
      reports = (answer.jobs ?? []).map(({ jobId, lease }) => ({ jobId, lease, complete: { result: {} } }));
      for (const { jobId } of reports) started(jobId, handle);
    }
  };

  return {
    add: async (payload) => enqueued((await post('/api/queue/media', nextUser(), JOB)).id, payload),
    async addBatch(batch) {
      const { jobs } = await post('/api/queue/media/batch', nextUser(), { jobs: batch.map(() => JOB) });
      const refused = jobs.find((job) => !job.ok);
      if (refused) throw new Error(`a job was refused: ${JSON.stringify(refused)}`);
      jobs.forEach((job, n) => enqueued(job.id, batch[n]));
    },
    async work(handle, concurrency) {
      isWorking = true;
      workers = Array.from({ length: concurrency }, (_, n) => worker(`worker-${n}`, handle));
    },
    async rest() {
      isWorking = false;
      await Promise.all(workers);
    },
    close: () => pool.close(),
  };
}

// Measures one queue from one client process, and prints its figures as one line of JSON.
//
//   node bench.mjs bullmq    BullMQ through its own library        REDIS_PORT
//   node bench.mjs express   Express + jsonwebtoken + BullMQ       REDIS_PORT (only the enqueue)
//   node bench.mjs genie     genie over HTTP                       GENIE, SECRET, TOKENS (a JSON list)
//
// Every phase begins with an empty queue. A phase that does not end in time is an error, not a figure.

import { performance } from 'node:perf_hooks';

const JOBS = Number(process.env.JOBS ?? 10_000);
const CALLERS = 64;
const WORKERS = 16;
const BATCH = 1000;
/** Jobs a second, and the seconds, of the phase that measures how soon a job is picked up. */
const CALM = 100;
const CALM_SECONDS = 10;
const LIMIT_MS = 120_000;
const WARM_UP = 1000;

const kind = process.argv[2];
const queue = await (await import(`./${kind}.mjs`)).open();
const now = () => performance.now();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const perSecond = (count, ms) => Math.round((count / ms) * 1000);

let finished = 0;
let onStart = () => {};
/** Called by a worker that has got a job. */
const handle = (payload) => {
  finished += 1;
  onStart(payload);
};

/** Enqueues jobs one by one, with CALLERS at the same time. */
async function enqueue(count) {
  let next = 0;
  const caller = async () => {
    while (next < count) await queue.add({ n: next++ });
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

/** Waits until the workers have handled that many jobs since `from`. Returns the time of the last one. */
async function handled(from, count) {
  const end = now() + LIMIT_MS;
  let last = now();
  onStart = () => {
    last = now();
  };
  while (finished - from < count) {
    if (now() > end) throw new Error(`${kind}: ${finished - from} of ${count} jobs in ${LIMIT_MS} ms`);
    await sleep(2);
  }
  onStart = () => {};
  return last;
}

/** Empties the queue, untimed. */
async function drain(count) {
  const from = finished;
  await queue.work(handle, WORKERS);
  await handled(from, count);
  await queue.rest();
}

async function enqueueAlone() {
  const began = now();
  await enqueue(JOBS);
  return { enqueue_per_s: perSecond(JOBS, now() - began) };
}

async function drainBacklog() {
  const from = finished;
  const began = now();
  await queue.work(handle, WORKERS);
  const last = await handled(from, JOBS);
  await queue.rest();
  return { drain_per_s: perSecond(JOBS, last - began) };
}

async function enqueueBatches() {
  const began = now();
  for (let done = 0; done < JOBS; done += BATCH) {
    await queue.addBatch(Array.from({ length: BATCH }, (_, n) => ({ n: done + n })));
  }
  const took = now() - began;
  await drain(JOBS);
  return { batch_per_s: perSecond(JOBS, took) };
}

async function enqueueAndWork() {
  await queue.work(handle, WORKERS);
  const from = finished;
  const began = now();
  const [, last] = await Promise.all([enqueue(JOBS), handled(from, JOBS)]);
  await queue.rest();
  return { both_per_s: perSecond(JOBS, last - began) };
}

/** From the call that enqueues a job to the start of its handler, at a calm rate. */
async function pickup() {
  await queue.work(handle, WORKERS);
  await sleep(500);
  const times = [];
  onStart = ({ at }) => times.push(now() - at);
  const count = CALM * CALM_SECONDS;
  const began = now();
  const adding = [];
  for (let n = 0; n < count; n++) {
    const due = began + (n * 1000) / CALM;
    if (due > now()) await sleep(due - now());
    adding.push(queue.add({ n, at: now() }));
  }
  await Promise.all(adding);
  const end = now() + LIMIT_MS;
  while (times.length < count) {
    if (now() > end) throw new Error(`${kind}: ${times.length} of ${count} jobs were picked up`);
    await sleep(5);
  }
  await queue.rest();
  times.sort((one, other) => one - other);
  const percentile = (share) => times[Math.ceil(times.length * share) - 1];
  return { pickup_p50_ms: percentile(0.5), pickup_p95_ms: percentile(0.95), pickup_p99_ms: percentile(0.99) };
}

const figures = {};
await enqueue(WARM_UP);
if (queue.work) {
  await drain(WARM_UP);
  for (const phase of [enqueueAlone, drainBacklog, enqueueBatches, enqueueAndWork, pickup]) {
    Object.assign(figures, await phase());
  }
} else {
  Object.assign(figures, await enqueueAlone());
}
await queue.close();
console.log(JSON.stringify(figures));
process.exit(0);

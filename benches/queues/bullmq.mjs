// BullMQ through its own library. Jobs that are done are removed, which is the least that it can do.

import { Queue, Worker } from 'bullmq';

export async function open() {
  const connection = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
  const queue = new Queue('media-jobs', { connection, defaultJobOptions: { removeOnComplete: true } });
  await queue.waitUntilReady();
  await queue.obliterate({ force: true });
  let worker;
  return {
    add: (payload) => queue.add('resize_image', data(payload)),
    addBatch: (payloads) => queue.addBulk(payloads.map((payload) => ({ name: 'resize_image', data: data(payload) }))),
    async work(handle, concurrency) {
      worker = new Worker('media-jobs', async (job) => handle(job.data.payload), { connection, concurrency });
      await worker.waitUntilReady();
    },
    rest: () => worker.close(),
    close: () => queue.close(),
  };
}

/** What the original puts into a job. */
const data = (payload) => ({
  userId: 'e58ed763-928c-4155-bee9-fdbaaadc15f3',
  operation: 'resize_image',
  params: { width: 100, height: 100 },
  inputUrl: 'https://example.com/a.jpg',
  payload,
});

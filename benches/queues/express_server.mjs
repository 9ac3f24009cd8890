// The server of express.mjs.

import { createSecretKey, randomUUID } from 'node:crypto';
import { Queue } from 'bullmq';
import express from 'express';
import jwt from 'jsonwebtoken';

const queue = new Queue('media-jobs', { connection: { host: '127.0.0.1', port: Number(process.env.REDIS_PORT) } });
await queue.waitUntilReady();
await queue.obliterate({ force: true });
// A key object: text would first be tried as a public key, which costs a quarter of the server's time.
const secret = createSecretKey(Buffer.from('a secret of 32 bytes or some more'));
const issuer = 'directus';
const app = express();
app.disable('x-powered-by');
app.use(express.json({ limit: '1mb' }));
app.post('/api/queue/media', async (request, response) => {
  let user;
  try {
    user = jwt.verify((request.headers.authorization ?? '').slice('Bearer '.length), secret, { issuer });
  } catch {
    return response.status(401).json({ ok: false });
  }
  const { operation, params, input_url: inputUrl } = request.body ?? {};
  if (typeof operation !== 'string') return response.status(400).json({ ok: false });
  const data = { userId: user.id, operation, params, inputUrl };
  const job = await queue.add(operation, data, { priority: 10, attempts: 3 });
  return response.json({ ok: true, success: true, jobId: job.id, bullJobId: job.id });
});
const listening = app.listen(0, '127.0.0.1', () => {
  const token = () => jwt.sign({ id: randomUUID(), role: 'creator' }, secret, { issuer, expiresIn: '1h' });
  process.send({ port: listening.address().port, tokens: Array.from({ length: 64 }, token) });
});
process.on('disconnect', () => process.exit(0));

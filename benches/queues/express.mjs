// What the original does to enqueue a job, without its questions to Directus: Express, jsonwebtoken and
// BullMQ in a process of their own, asked over HTTP by the client that asks genie.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Pool } from 'undici';

export async function open() {
  const server = fork(new URL('./express_server.mjs', import.meta.url));
  const [{ port, tokens }] = await once(server, 'message');
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: 128, pipelining: 1 });
  let callers = 0;
  return {
    async add() {
      const answer = await pool.request({
        method: 'POST',
        path: '/api/queue/media',
        headers: {
          'content-type': 'application/json',
          authorization: `Bearer ${tokens[callers++ % tokens.length]}`,
        },
        body: '{"operation":"resize_image","params":{"width":100,"height":100},"input_url":"https://example.com/a.jpg"}',
      });
      const text = await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(`Express answered ${answer.statusCode}: ${text}`);
      return JSON.parse(text);
    },
    async close() {
      await pool.close();
      server.kill();
    },
  };
}

// Moves resources to and from files, in the steps that it is told: `{ get | put: path, query, file, how }`.

import { createReadStream } from 'node:fs'
import { readFile, stat, writeFile } from 'node:fs/promises'

import { connected, options, refused, tell } from './shared.mjs'

const BODIES = {
  buffer: readFile,
  sized: async file => Object.assign(createReadStream(file), { length: (await stat(file)).size }),
  endless: createReadStream,
}

const xapi = await connected()
for (const { get, put, query, file, how } of options.steps) {
  if (get !== undefined) {
    const answer = await xapi.getResource(get, { query })
    // In one piece: the client's HTTP library (undici 6, its issue 5360) dies where a slow reader makes it pause and the
    // server, which has sent all, closes.
    await writeFile(file, Buffer.from(await answer.body.arrayBuffer()))
    tell({ status: answer.statusCode, type: answer.headers['content-type'], result: await answer.task })
  } else {
    const sent = xapi.putResource(await BODIES[how](file), put, { query })
    tell(await sent.then(result => ({ result }), () => refused(sent)))
  }
}
await xapi.barrier()
await xapi.disconnect()

// Logs in, looks around, logs out.

import { cached, connected, options, refused, tell } from './shared.mjs'

let xapi
const failed = await refused(connected().then(it => (xapi = it)).then(() => tell('connected')))
if (xapi === undefined) {
  tell(failed)
} else {
  const [vm] = cached(xapi, 'VM').filter(it => it.uuid === options.vm)
  tell({
    status: xapi.status,
    pool: xapi.pool.name_label,
    hosts: cached(xapi, 'host').map(host => host.name_label),
    address: xapi.getObject(xapi.pool.master).address,
    memory: vm.memory_static_max,
    session: xapi.sessionId,
  })
  await xapi.disconnect()
  tell(xapi.status)
}

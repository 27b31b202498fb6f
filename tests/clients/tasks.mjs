// Calls that run as tasks: results, refusals, cancellation, and a task that somebody else started.

import { cached, connected, named, options, refused, tell, until } from './shared.mjs'

const xapi = await connected()
const running = named(xapi, 'VM', options.running)
const halted = named(xapi, 'VM', options.halted)

tell({ result: await xapi.callAsync('VDI.clone', options.disk, {}) })
tell({ result: await halted.$callAsync('start', false, false) })
tell(await refused(halted.$callAsync('start', false, false)))

const stopping = xapi.callAsync('VM.clean_shutdown', running.$ref)
const seen = await until(xapi, () => cached(xapi, 'task').find(it => it.status === 'pending' && it.progress < 1))
tell({ pending: seen.name_label, operations: Object.values((await xapi.barrier(running.$ref)).current_operations) })
stopping.cancel()
tell(await refused(stopping))

tell({ watched: await refused(xapi.watchTask(await xapi.call('Async.VM.clean_shutdown', running.$ref))) })
tell({ state: (await xapi.barrier(running.$ref)).power_state })
await xapi.disconnect()

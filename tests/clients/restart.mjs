// Follows a pool whose master goes away and comes back.

import { connected, named, options, tell, until } from './shared.mjs'

const xapi = await connected()
const vm = named(xapi, 'VM', options.vm)
let failures = 0
xapi.on('eventFetchingError', () => {
  if (failures++ === 0) {
    tell('lost')
  }
})
tell('ready')
const renamed = await until(xapi, () => named(xapi, 'VM', 'renamed meanwhile'))
tell({ same: renamed.$ref === vm.$ref, asked: await xapi.call('VM.get_name_label', vm.$ref) })
tell({ result: await xapi.callAsync('VM.start', vm.$ref, false, false), session: xapi.sessionId })
await xapi.disconnect()

// Tells what happens to networks and VMs, as the cache sees it, until a network called `over` appears.

import { connected, named, tell, until } from './shared.mjs'

const xapi = await connected()
const names = {}
for (const object of Object.values(xapi.objects.all)) {
  names[object.$id] = object.name_label
}
for (const happened of ['add', 'update', 'remove']) {
  xapi.objects.on(happened, changes => {
    for (const [id, object] of Object.entries(changes)) {
      if (happened === 'remove') {
        tell({ happened, name: names[id] })
      } else if (object.$type === 'network' || object.$type === 'VM') {
        names[id] = object.name_label
        tell({ happened, type: object.$type, name: object.name_label, tags: object.tags, state: object.power_state })
      }
    }
  })
}
tell('ready')
await until(xapi, () => named(xapi, 'network', 'over'))
await xapi.disconnect()

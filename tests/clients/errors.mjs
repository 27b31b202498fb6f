// Makes calls that are refused, and tells with which code and parameters.

import { connected, options, refused, tell } from './shared.mjs'

const xapi = await connected()
for (const [method, ...args] of options.calls) {
  tell(await refused(xapi.call(method, ...args)))
}
await xapi.disconnect()

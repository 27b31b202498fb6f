// What the programs share: the client under test, and a way to tell whoever started them, one line of JSON at a time.
//
// XEN_API is the path of the client's module. The only argument is a JSON object: the options of the client's constructor
// as `client`, and what else a program needs.

import { pathToFileURL } from 'node:url'

const { Xapi } = await import(pathToFileURL(process.env.XEN_API))

export const options = JSON.parse(process.argv[2])

export function tell(what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

// A client that has logged in and fetched what there is; it waits 10 ms between two questions for events, not 200.
export async function connected() {
  const xapi = new Xapi({ auth: { user: 'root', password: 'secret' }, debounce: 10, ...options.client })
  await xapi.connect()
  await xapi.objectsFetched
  return xapi
}

// What the client has in its cache.
export function cached(xapi, type) {
  return Object.values(xapi.objects.all).filter(object => object.$type === type)
}

export function named(xapi, type, name) {
  return cached(xapi, type).find(object => object.name_label === name)
}

// Waits until the cache shows what is looked for, and returns it.
export function until(xapi, look) {
  return new Promise(resolve => {
    const again = () => {
      const found = look()
      if (found) {
        xapi.objects.off('finish', again)
        resolve(found)
      }
    }
    xapi.objects.on('finish', again)
    again()
  })
}

// How a call ended that must not succeed.
export async function refused(promise) {
  try {
    return { unexpected: await promise }
  } catch (error) {
    return { code: error.code, params: error.params, message: error.message }
  }
}

// Reads records with their types, follows references, writes fields of every kind.

import { connected, named, options, tell } from './shared.mjs'

const xapi = await connected()
const vm = named(xapi, 'VM', options.vm)
tell({
  memory_static_max: vm.memory_static_max,
  is_a_template: vm.is_a_template,
  snapshot_time: vm.snapshot_time,
  platform: vm.platform,
  VBDs: vm.VBDs,
  resident_on: vm.$resident_on.name_label,
  disks: vm.$VBDs.filter(vbd => vbd.type === 'Disk').map(vbd => vbd.$VDI.name_label),
  sr: vm.$VBDs.find(vbd => vbd.type === 'Disk').$VDI.$SR.name_label,
  pool: vm.$pool.name_label,
})
await vm.set_name_description('written by another client')
await vm.update_other_config('one', '1')
await vm.update_other_config('one', '2')
await vm.update_other_config({ two: '2', three: '3' })
await vm.update_other_config('three', null)
await vm.add_tags('kept')
await vm.add_tags('dropped')
await vm.remove_tags('dropped')
await xapi.setFields('VM', vm.$ref, { is_a_template: false, actions_after_crash: 'destroy' })
const now = await xapi.barrier(vm.$ref)
const { one, two, three } = now.other_config
tell({
  name_description: now.name_description,
  other_config: { one, two, three },
  tags: now.tags,
  actions_after_crash: now.actions_after_crash,
  asked: await xapi.getField('VM', vm.$ref, 'tags'),
  again: (await xapi.getRecordByUuid('VM', vm.uuid)).$ref === vm.$ref,
})
await xapi.disconnect()

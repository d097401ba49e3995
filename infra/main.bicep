// cvmguard in one subscription: the function app and its storage in a group of
// their own, the roles that its identity holds over the subscription, and the
// Event Grid subscriptions that feed it.
//
// The event subscriptions point at functions, which exist only once the code is
// deployed. So there are two passes: first with `events` false, then the code,
// then again with `events` true. README.md beside this file has the commands.

targetScope = 'subscription'

@description('Region of the function app, its storage and its telemetry. It must offer Flex Consumption.')
param location string

@description('Resource group that is made for cvmguard itself.')
param groupName string = 'rg-cvmguard'

@description('Stem of all names: 3 to 11 lower-case letters and digits.')
@minLength(3)
@maxLength(11)
param name string = 'cvmguard'

@description('Redundancy of the storage account, which holds the ledger. Not every region has zones.')
@allowed([
  'Standard_LRS'
  'Standard_ZRS'
  'Standard_GRS'
  'Standard_GZRS'
])
param storageSku string = 'Standard_ZRS'

@description('observe: plans are recorded, nothing is changed and the identity may only read. enforce: the policy in force is carried out, and the identity gets the writes of role.json.')
@allowed([
  'observe'
  'enforce'
])
param mode string = 'observe'

@description('In mode enforce, grant also role-remedy.json, which a policy may allow: deallocate and start, move data disks to their disk encryption set, make keys, repair rights.')
param grantRemedies bool = false

@description('In mode enforce, grant also role-access-policies.json: repair rights in vaults with access policies. No condition narrows it: it can give any right in such a vault to anybody, to cvmguard itself too.')
param grantAccessPolicies bool = false

@description('In mode enforce, with grantRemedies, grant also role-recreate.json: delete VMs and create them anew, by plans that a person approves (cvmguard recreate).')
param grantRecreation bool = false

@description('Make the Event Grid subscriptions. Needs the code to be deployed already.')
param events bool = false

@description('With events: subscribe also to the health of VMs (Resource Notifications). Makes a system topic of its own, of which a subscription can have one.')
param healthEvents bool = false

@description('Azure allows one system topic for a subscription. If there is one, give its name and group; empty means that one is made in groupName.')
param existingTopicName string = ''

@description('Group of the existing system topic.')
param existingTopicGroup string = ''

@description('ARM ids of the key vaults whose key events are wanted. They must be in this subscription and have no system topic yet.')
param keyVaultIds array = []

@description('Days for which blobs and containers can be undeleted.')
@minValue(7)
@maxValue(365)
param softDeleteDays int = 30

@description('Deploy and assign an Azure Policy initiative that reports, or refuses, what the policy would fail in a request.')
param initiative bool = false

@description('With initiative: Audit reports, Deny refuses.')
@allowed([
  'Audit'
  'Deny'
  'Disabled'
])
param initiativeEffect string = 'Audit'

@description('With initiative: ARM ids of resources that it leaves alone.')
param initiativeExceptIds array = []

@description('With initiative: what `cvmguard policy export --as azure-policy -o json` prints of the policy in force. By default that of the embedded policy.')
param initiativeContent object = loadJsonContent('initiative.json')

@description('Tags on all that is made.')
param tags object = {}

// What a VM event is: the operations after which a VM may stand differently.
// runCommands/write is left out on purpose, it is cvmguard's own echo. Those of scale
// sets are of instances of uniform ones.
var vmOperations = [
  'Microsoft.Compute/virtualMachines/write'
  'Microsoft.Compute/virtualMachines/delete'
  'Microsoft.Compute/virtualMachines/start/action'
  'Microsoft.Compute/virtualMachines/restart/action'
  'Microsoft.Compute/virtualMachines/powerOff/action'
  'Microsoft.Compute/virtualMachines/deallocate/action'
  'Microsoft.Compute/virtualMachines/redeploy/action'
  'Microsoft.Compute/virtualMachines/reapply/action'
  'Microsoft.Compute/virtualMachines/reimage/action'
  'Microsoft.Compute/virtualMachines/extensions/write'
  'Microsoft.Compute/virtualMachines/extensions/delete'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/write'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/delete'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/start/action'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/restart/action'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/deallocate/action'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/redeploy/action'
  'Microsoft.Compute/virtualMachineScaleSets/virtualMachines/reimage/action'
]

var vmEventTypes = [
  'Microsoft.Resources.ResourceWriteSuccess'
  'Microsoft.Resources.ResourceWriteFailure'
  'Microsoft.Resources.ResourceWriteCancel'
  'Microsoft.Resources.ResourceActionSuccess'
  'Microsoft.Resources.ResourceActionFailure'
  'Microsoft.Resources.ResourceActionCancel'
  'Microsoft.Resources.ResourceDeleteSuccess'
  'Microsoft.Resources.ResourceDeleteFailure'
  'Microsoft.Resources.ResourceDeleteCancel'
]

var healthEventTypes = [
  'Microsoft.ResourceNotifications.HealthResources.AvailabilityStatusChanged'
  'Microsoft.ResourceNotifications.HealthResources.ResourceAnnotated'
]

var keyEventTypes = [
  'Microsoft.KeyVault.KeyNewVersionCreated'
  'Microsoft.KeyVault.KeyNearExpiry'
  'Microsoft.KeyVault.KeyExpired'
]

// The two roles that a repair of rights may hand out, and no others: Key Vault
// Crypto Service Encryption User (a disk encryption set's identity) and Key Vault
// Crypto Service Release User (the Confidential VM Orchestrator).
var grantable = 'e147488a-f6f5-4113-8e2d-b22465e65bf6, 08bbd89e-9f13-488c-ac41-acfcb10c90ab'

var clouds = {
  AzureCloud: 'public'
  AzureUSGovernment: 'usgov'
  AzureChinaCloud: 'china'
}
var cloud = clouds[environment().name]

var suffix = uniqueString(subscription().subscriptionId, groupName, name)
var storageName = take('st${name}${suffix}', 24)
var makeTopic = empty(existingTopicName)
var topicName = makeTopic ? 'evgt-${name}-${suffix}' : existingTopicName
var topicGroup = makeTopic ? groupName : existingTopicGroup

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: groupName
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'cvmguard-identity'
  scope: group
  params: {
    name: 'id-${name}-${suffix}'
    location: location
    tags: tags
  }
}

module storage 'modules/storage.bicep' = {
  name: 'cvmguard-storage'
  scope: group
  params: {
    name: storageName
    location: location
    sku: storageSku
    softDeleteDays: softDeleteDays
    tags: tags
  }
}

// What the identity may do with its own storage: blobs (the host needs Owner for
// its leases), queues, tables, and the key for user delegation SAS.
module storageRoles 'modules/storage-role.bicep' = [for role in [
  'b7e6dc6d-f1e8-4753-8033-0f276bb0955b' // Storage Blob Data Owner
  'db58b8e5-c6ad-4a2a-8342-4190687cbf4a' // Storage Blob Delegator
  '974c5e8b-45b9-4653-ba55-5f855dd0fb88' // Storage Queue Data Contributor
  '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3' // Storage Table Data Contributor
]: {
  name: 'cvmguard-storage-${take(role, 8)}'
  scope: group
  params: {
    storageName: storage.outputs.name
    principalId: identity.outputs.principalId
    roleId: role
  }
}]

module monitoring 'modules/monitoring.bicep' = {
  name: 'cvmguard-monitoring'
  scope: group
  params: {
    name: '${name}-${suffix}'
    location: location
    tags: tags
  }
}

module app 'modules/function-app.bicep' = {
  name: 'cvmguard-app'
  scope: group
  params: {
    name: 'func-${name}-${suffix}'
    planName: 'plan-${name}-${suffix}'
    location: location
    tags: tags
    storageName: storage.outputs.name
    packageContainerUrl: storage.outputs.packageContainerUrl
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    telemetryConnection: monitoring.outputs.connectionString
    settings: {
      CVMGUARD_MODE: mode
      CVMGUARD_CLOUD: cloud
    }
  }
  dependsOn: [
    storageRoles
  ]
}

// One source for code, simulator and deployment: the actions are read from the
// same files that the simulator refuses by and the tests compare.
module readRole 'modules/role.bicep' = {
  name: 'cvmguard-role-read'
  params: {
    key: '${name}-${groupName}-read'
    roleName: 'cvmguard reads (${name} ${take(suffix, 5)})'
    roleDescription: 'What cvmguard reads in every deployment: VMs, disks, disk encryption sets, keys, vaults and rights.'
    powers: loadJsonContent('role-read.json')
    principalId: identity.outputs.principalId
  }
}

module enforceRole 'modules/role.bicep' = if (mode == 'enforce') {
  name: 'cvmguard-role-enforce'
  params: {
    key: '${name}-${groupName}-enforce'
    roleName: 'cvmguard writes (${name} ${take(suffix, 5)})'
    roleDescription: 'What cvmguard writes in mode enforce: tags, the attestation extension, evidence by Run Command, disk encryption sets.'
    powers: loadJsonContent('role.json')
    principalId: identity.outputs.principalId
  }
}

// The condition narrows role assignments: no role but the two, to service
// principals alone, and never to cvmguard's own identity.
module remedyRole 'modules/role.bicep' = if (mode == 'enforce' && grantRemedies) {
  name: 'cvmguard-role-remedy'
  params: {
    key: '${name}-${groupName}-remedy'
    roleName: 'cvmguard remedies (${name} ${take(suffix, 5)})'
    roleDescription: 'What a cvmguard policy may allow on top: deallocate and start, data disks to their disk encryption set, keys and rights.'
    powers: loadJsonContent('role-remedy.json')
    principalId: identity.outputs.principalId
    condition: '((!(ActionMatches{\'Microsoft.Authorization/roleAssignments/write\'})) OR (@Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${grantable}} AND @Request[Microsoft.Authorization/roleAssignments:PrincipalType] ForAnyOfAnyValues:StringEqualsIgnoreCase {\'ServicePrincipal\'} AND @Request[Microsoft.Authorization/roleAssignments:PrincipalId] ForAnyOfAnyValues:GuidNotEquals {${identity.outputs.principalId}}))'
  }
}

module accessPoliciesRole 'modules/role.bicep' = if (mode == 'enforce' && grantAccessPolicies) {
  name: 'cvmguard-role-access-policies'
  params: {
    key: '${name}-${groupName}-access-policies'
    roleName: 'cvmguard access policies (${name} ${take(suffix, 5)})'
    roleDescription: 'Repair of rights in vaults with access policies. It can give any right in such a vault, to its holder too.'
    powers: loadJsonContent('role-access-policies.json')
    principalId: identity.outputs.principalId
  }
}

module recreateRole 'modules/role.bicep' = if (mode == 'enforce' && grantRecreation) {
  name: 'cvmguard-role-recreate'
  params: {
    key: '${name}-${groupName}-recreate'
    roleName: 'cvmguard re-creation (${name} ${take(suffix, 5)})'
    roleDescription: 'What the re-creation of a VM needs on top of the remedies: to delete it, and to join its network interfaces and identities to the new one.'
    powers: loadJsonContent('role-recreate.json')
    principalId: identity.outputs.principalId
  }
}

module vmTopic 'modules/system-topic.bicep' = if (events) {
  name: 'cvmguard-vm-topic'
  scope: resourceGroup(topicGroup)
  params: {
    name: topicName
    create: makeTopic
    location: 'global'
    source: subscription().id
    topicType: 'Microsoft.Resources.Subscriptions'
    tags: tags
  }
  dependsOn: [
    group
  ]
}

// The topic writes its dead letters as itself.
module vmTopicStorage 'modules/storage-role.bicep' = if (events) {
  name: 'cvmguard-vm-topic-storage'
  scope: group
  params: {
    storageName: storage.outputs.name
    principalId: vmTopic!.outputs.principalId
    roleId: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
    container: 'deadletter'
  }
}

module vmEvents 'modules/event-subscription.bicep' = if (events) {
  name: 'cvmguard-vm-events'
  scope: resourceGroup(topicGroup)
  params: {
    topicName: topicName
    name: 'cvmguard-vm-event'
    functionId: '${app.outputs.id}/functions/vm-event'
    storageId: storage.outputs.id
    eventTypes: vmEventTypes
    advancedFilters: [
      {
        operatorType: 'StringIn'
        key: 'data.operationName'
        values: vmOperations
      }
    ]
  }
  dependsOn: [
    vmTopicStorage
  ]
}

module keyEvents 'modules/key-events.bicep' = [for vault in keyVaultIds: if (events) {
  name: 'cvmguard-key-${uniqueString(vault)}'
  scope: resourceGroup(split(vault, '/')[4])
  params: {
    vaultName: last(split(vault, '/'))
    functionId: '${app.outputs.id}/functions/key-event'
    storageId: storage.outputs.id
    storageName: storage.outputs.name
    storageGroup: groupName
    eventTypes: keyEventTypes
    tags: tags
  }
}]

module health 'modules/health-events.bicep' = if (events && healthEvents) {
  name: 'cvmguard-health'
  scope: group
  params: {
    topicName: 'evgt-${name}-health-${suffix}'
    functionId: '${app.outputs.id}/functions/vm-event'
    storageId: storage.outputs.id
    storageName: storage.outputs.name
    eventTypes: healthEventTypes
    tags: tags
  }
}

// Prevention: what a rule fails in a request needs no repair if it is refused.
module prevention 'modules/initiative.bicep' = if (initiative) {
  name: 'cvmguard-initiative'
  params: {
    initiative: initiativeContent
    effect: initiativeEffect
    exceptIds: initiativeExceptIds
  }
}

output functionApp string = app.outputs.name
output functionAppHost string = app.outputs.host
output resourceGroup string = group.name
output storageAccount string = storage.outputs.name
output identityPrincipalId string = identity.outputs.principalId

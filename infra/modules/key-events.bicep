// Key events of one vault: its system topic, the topic's right to write dead
// letters, and the subscription. Managed HSMs have no such events; the sweep
// looks at their keys.

param vaultName string
param functionId string
param storageId string
param storageName string
param storageGroup string
param eventTypes array
param tags object

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: vaultName
}

var topicName = 'evgt-${vaultName}'

module topic 'system-topic.bicep' = {
  name: 'cvmguard-topic-${vaultName}'
  params: {
    name: topicName
    create: true
    location: vault.location
    source: vault.id
    topicType: 'Microsoft.KeyVault.vaults'
    tags: tags
  }
}

module storageRole 'storage-role.bicep' = {
  name: 'cvmguard-topic-storage-${vaultName}'
  scope: resourceGroup(storageGroup)
  params: {
    storageName: storageName
    principalId: topic.outputs.principalId
    roleId: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
    container: 'deadletter'
  }
}

module events 'event-subscription.bicep' = {
  name: 'cvmguard-events-${vaultName}'
  params: {
    topicName: topicName
    name: 'cvmguard-key-event'
    functionId: functionId
    storageId: storageId
    eventTypes: eventTypes
  }
  dependsOn: [
    storageRole
  ]
}

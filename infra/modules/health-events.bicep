// Health of the subscription's VMs (Resource Notifications): the system topic, the
// topic's right to write dead letters, and the subscription. Instances of uniform
// scale sets are left out by the filter.

param topicName string
param functionId string
param storageId string
param storageName string
param eventTypes array
param tags object

module topic 'system-topic.bicep' = {
  name: 'cvmguard-health-topic'
  params: {
    name: topicName
    create: true
    location: 'global'
    source: subscription().id
    topicType: 'Microsoft.ResourceNotifications.HealthResources'
    tags: tags
  }
}

module storageRole 'storage-role.bicep' = {
  name: 'cvmguard-health-topic-storage'
  params: {
    storageName: storageName
    principalId: topic.outputs.principalId
    roleId: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
    container: 'deadletter'
  }
}

module events 'event-subscription.bicep' = {
  name: 'cvmguard-health-events'
  params: {
    topicName: topicName
    name: 'cvmguard-health'
    functionId: functionId
    storageId: storageId
    eventTypes: eventTypes
    advancedFilters: [
      {
        operatorType: 'StringContains'
        key: 'subject'
        values: [
          '/providers/Microsoft.Compute/virtualMachines/'
        ]
      }
    ]
  }
  dependsOn: [
    storageRole
  ]
}

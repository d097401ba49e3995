// Events of a system topic to one of the app's functions. The endpoint type is
// AzureFunction, not WebHook: Event Grid then brings the function's key itself
// and retries the 401 of an app that is just starting. One event a call.

param topicName string
param name string
param functionId string
param storageId string
param eventTypes array
param advancedFilters array = []

resource topic 'Microsoft.EventGrid/systemTopics@2022-06-15' existing = {
  name: topicName
}

resource subscriptionOfTopic 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2022-06-15' = {
  parent: topic
  name: name
  properties: {
    eventDeliverySchema: 'EventGridSchema'
    destination: {
      endpointType: 'AzureFunction'
      properties: {
        resourceId: functionId
        maxEventsPerBatch: 1
        preferredBatchSizeInKilobytes: 64
      }
    }
    filter: {
      includedEventTypes: eventTypes
      isSubjectCaseSensitive: false
      advancedFilters: advancedFilters
    }
    retryPolicy: {
      eventTimeToLiveInMinutes: 1440
      maxDeliveryAttempts: 30
    }
    // The sweep imports what ends here.
    deadLetterWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: {
          resourceId: storageId
          blobContainerName: 'deadletter'
        }
      }
    }
  }
}

// An Event Grid system topic with an identity of its own, or one that is there.
// An existing one must have a system-assigned identity, for the dead letters.

param name string
param create bool
param location string
param source string
param topicType string
param tags object

resource made 'Microsoft.EventGrid/systemTopics@2022-06-15' = if (create) {
  name: name
  location: location
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: source
    topicType: topicType
  }
}

resource found 'Microsoft.EventGrid/systemTopics@2022-06-15' existing = if (!create) {
  name: name
}

output principalId string = create ? made!.identity.principalId : found!.identity.principalId

// One built-in role over the storage account, or over one of its containers.

param storageName string
param principalId string
param roleId string

@description('Empty: the whole account.')
param container string = ''

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

resource blobContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = if (!empty(container)) {
  parent: blobs
  name: empty(container) ? 'unused' : container
}

var definition = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)

resource onAccount 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (empty(container)) {
  name: guid(account.id, principalId, roleId)
  scope: account
  properties: {
    roleDefinitionId: definition
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

resource onContainer 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(container)) {
  name: guid(account.id, container, principalId, roleId)
  scope: blobContainer
  properties: {
    roleDefinitionId: definition
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

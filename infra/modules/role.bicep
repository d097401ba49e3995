// A custom role over the subscription and its assignment to one identity.

targetScope = 'subscription'

@description('What the names of role and assignment are made from: the same key, the same role.')
param key string
param roleName string
param roleDescription string

@description('One of the role files: actions and dataActions.')
param powers object
param principalId string

@description('Condition of the assignment; empty for none.')
param condition string = ''

resource definition 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(subscription().id, key)
  properties: {
    roleName: roleName
    description: roleDescription
    type: 'customRole'
    permissions: [
      {
        actions: powers.actions
        notActions: []
        dataActions: powers.dataActions
        notDataActions: []
      }
    ]
    assignableScopes: [
      subscription().id
    ]
  }
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(subscription().id, key, 'assignment')
  properties: {
    roleDefinitionId: definition.id
    principalId: principalId
    principalType: 'ServicePrincipal'
    condition: empty(condition) ? null : condition
    conditionVersion: empty(condition) ? null : '2.0'
  }
}

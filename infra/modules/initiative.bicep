// What Azure Policy can say of a cvmguard policy, deployed to a subscription: the
// definitions, the initiative over them and its assignment.

targetScope = 'subscription'

@description('An initiative as `cvmguard policy export --as azure-policy -o json` prints it. By default that of the embedded policy.')
param initiative object = loadJsonContent('../initiative.json')

@description('Audit reports what the policy would fail. Deny refuses it, updates of what is there already among it. Rules of effect audit are audited either way.')
@allowed([
  'Audit'
  'Deny'
  'Disabled'
])
param effect string = 'Audit'

@description('ARM ids of resources that are left alone.')
param exceptIds array = []

// The texts of the rules in brackets are Azure Policy's own expressions. They come
// out of a value here, so that the deployment doesn't evaluate them.
resource definitions 'Microsoft.Authorization/policyDefinitions@2023-04-01' = [for definition in initiative.definitions: {
  name: definition.name
  properties: {
    displayName: definition.properties.displayName
    description: definition.properties.description
    policyType: definition.properties.policyType
    mode: definition.properties.mode
    metadata: definition.properties.metadata
    parameters: definition.properties.parameters
    policyRule: definition.properties.policyRule
  }
}]

resource set 'Microsoft.Authorization/policySetDefinitions@2023-04-01' = {
  name: initiative.set.name
  properties: {
    displayName: initiative.set.properties.displayName
    description: initiative.set.properties.description
    policyType: initiative.set.properties.policyType
    metadata: initiative.set.properties.metadata
    parameters: initiative.set.properties.parameters
    policyDefinitions: [for reference in initiative.set.properties.policyDefinitions: {
      policyDefinitionReferenceId: reference.policyDefinitionReferenceId
      policyDefinitionId: subscriptionResourceId('Microsoft.Authorization/policyDefinitions', reference.definition)
      parameters: reference.parameters
    }]
  }
  dependsOn: [
    definitions
  ]
}

resource assignment 'Microsoft.Authorization/policyAssignments@2023-04-01' = {
  name: initiative.set.name
  properties: {
    displayName: initiative.set.properties.displayName
    description: initiative.set.properties.description
    policyDefinitionId: set.id
    enforcementMode: 'Default'
    parameters: {
      effect: {
        value: effect
      }
      exceptIds: {
        value: exceptIds
      }
    }
  }
}

output assignmentId string = assignment.id

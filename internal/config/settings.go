package config

// Setting describes one setting for documentation. Default is "" where there is
// none.
type Setting struct {
	Name, Default, Meaning string
}

// The settings' names.
const (
	keyPort           = "FUNCTIONS_CUSTOMHANDLER_PORT"
	keyStorage        = "AzureWebJobsStorage"
	keyAccount        = "AzureWebJobsStorage__accountName"
	keyBlobURI        = "AzureWebJobsStorage__blobServiceUri"
	keyQueueURI       = "AzureWebJobsStorage__queueServiceUri"
	keyTableURI       = "AzureWebJobsStorage__tableServiceUri"
	keyCredential     = "AzureWebJobsStorage__credential"
	keyStorageClient  = "AzureWebJobsStorage__clientId"
	keyMode           = "CVMGUARD_MODE"
	keyPolicy         = "CVMGUARD_POLICY"
	keyShadowPolicy   = "CVMGUARD_SHADOW_POLICY"
	keyCloud          = "CVMGUARD_CLOUD"
	keyClientID       = "AZURE_CLIENT_ID"
	keyLease          = "CVMGUARD_LEASE"
	keyTurn           = "CVMGUARD_TURN_TIMEOUT"
	keyMargin         = "CVMGUARD_MARGIN"
	keySlowPace       = "CVMGUARD_SLOW_PACE"
	keyNonceLife      = "CVMGUARD_NONCE_LIFE"
	keyCacheTTL       = "CVMGUARD_CACHE_TTL"
	keyTransitionWait = "CVMGUARD_TRANSITION_WAIT"
	keyMaxPoll        = "CVMGUARD_MAX_POLL"
	keyGuestTool      = "CVMGUARD_GUEST_TOOL"
	keyPublicURL      = "CVMGUARD_PUBLIC_URL"
	keyLogLevel       = "CVMGUARD_LOG_LEVEL"
	keyMaxParallel    = "CVMGUARD_MAX_PARALLEL"
	keyDevAzure       = "CVMGUARD_DEV_AZURE"
	keyDevCA          = "CVMGUARD_DEV_CA"
	keyDevRoots       = "CVMGUARD_DEV_ROOTS"
	keyIdentity       = "IDENTITY_ENDPOINT"
)

// Settings lists every setting in the order in which documentation shows them.
func Settings() []Setting {
	return []Setting{
		{keyPort, "8080", "Port on 127.0.0.1 that the Functions host calls; the host sets it."},
		{keyStorage, "", "Storage account as a connection string with a key, or UseDevelopmentStorage=true for Azurite on its usual ports. Not together with the settings below."},
		{keyAccount, "", "Storage account by name, reached by managed identity."},
		{keyBlobURI, "", "Blob service by URI, in place of the account's name; with the queue and table URIs."},
		{keyQueueURI, "", "Queue service by URI."},
		{keyTableURI, "", "Table service by URI."},
		{keyCredential, "", "managedidentity, or empty for the process's default credential."},
		{keyStorageClient, "", "Client id of a user-assigned identity for storage; needs the credential to be managedidentity."},
		{keyMode, "", "observe or enforce; empty takes the policy document's own mode."},
		{keyPolicy, "", "Path of a policy document (YAML); empty takes the embedded one."},
		{keyShadowPolicy, "", "Path of a second policy document that is judged beside the first, recorded and shown, and never applied."},
		{keyCloud, string(Public), "public, usgov or china."},
		{keyClientID, "", "Client id of a user-assigned identity for reading and changing VMs; empty takes the system-assigned one."},
		{keyLease, "90s", "How long a worker's claim on a VM or shared object holds; longer than a turn."},
		{keyTurn, "60s", "How long one turn may take."},
		{keyMargin, "10s", "How long after a lease's end a message that met it is seen again."},
		{keySlowPace, "1h", "Pause before trying again what failed for a reason that a person must mend."},
		{keyNonceLife, "30m", "How long an evidence nonce is good; longer than the lease."},
		{keyCacheTTL, "60s", "How long what was read of a disk encryption set, key, vault or its rights is used again; 0 reads every time."},
		{keyTransitionWait, "15s", "Pause before looking again at a VM in transition."},
		{keyMaxPoll, "30s", "Longest pause before an operation under way is asked about again."},
		{keyGuestTool, "<folder of the program>/guest/cvmguard-guest", "Path of the evidence collector that is sent to guests."},
		{keyPublicURL, "", "Base URL of this function app for links and guests, such as https://app.example.net; empty takes it from each request."},
		{keyLogLevel, "info", "debug, info, warn or error."},
		{keyMaxParallel, "16", "Turns at a time in one process."},
		{keyDevAzure, "", "Development only: host:port that every Azure host name is dialled to. Records are marked."},
		{keyDevCA, "", "Development only: PEM file of the one certificate authority that is then trusted."},
		{keyDevRoots, "", "Development only: folder of trust roots for attestation in place of the vendors'. Records are marked."},
	}
}

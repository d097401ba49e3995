package config

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// The account that Azurite and the storage emulator publish: its key is in their
// documentation and protects nothing.
const (
	emulatorAccount = "devstoreaccount1"
	emulatorKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

var accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)

// suffix of the storage services' host names in a cloud.
func (c Cloud) storageSuffix() string {
	switch c {
	case USGov:
		return "core.usgovcloudapi.net"
	case China:
		return "core.chinacloudapi.cn"
	default:
		return "core.windows.net"
	}
}

const storageFix = "Set " + keyStorage + " to a connection string, or " + keyAccount + " (with the credential managedidentity)."

// storage reads the one of three forms that was given: a connection string, the
// account's name, or three service URIs.
func (r *reader) storage(cloud Cloud) Storage {
	conn, account := r.get(keyStorage), r.get(keyAccount)
	uris := map[string]string{keyBlobURI: r.get(keyBlobURI), keyQueueURI: r.get(keyQueueURI), keyTableURI: r.get(keyTableURI)}
	anyURI := uris[keyBlobURI] != "" || uris[keyQueueURI] != "" || uris[keyTableURI] != ""
	cred, client := r.get(keyCredential), r.guid(keyStorageClient)

	if conn != "" {
		for _, k := range []string{keyAccount, keyBlobURI, keyQueueURI, keyTableURI, keyCredential, keyStorageClient} {
			if r.get(k) != "" {
				r.fault(k, r.get(k), "contradicts the connection string in "+keyStorage, "Keep one of the two.")
			}
		}
		return r.connectionString(conn, cloud)
	}
	if cred != "" && !strings.EqualFold(cred, "managedidentity") {
		r.fault(keyCredential, cred, "not a kind of credential that is known here", "Give managedidentity, or leave it out.")
	}
	if client != "" && cred == "" {
		r.fault(keyStorageClient, client, "given without a credential", "Set "+keyCredential+" to managedidentity.")
	}
	switch {
	case account != "" && anyURI:
		r.fault(keyAccount, account, "contradicts the service URIs", "Keep the account's name or the three URIs.")
	case account != "":
		if !accountName.MatchString(account) {
			r.fault(keyAccount, account, "not the name of a storage account", "Give 3 to 24 lower-case letters and digits.")
		}
		at := func(service string) string {
			return fmt.Sprintf("https://%s.%s.%s", account, service, cloud.storageSuffix())
		}
		return Storage{Account: account, BlobURL: at("blob"), QueueURL: at("queue"), TableURL: at("table"), ClientID: client}
	case anyURI:
		s := Storage{ClientID: client}
		for _, p := range []struct {
			key string
			to  *string
		}{{keyBlobURI, &s.BlobURL}, {keyQueueURI, &s.QueueURL}, {keyTableURI, &s.TableURL}} {
			if uris[p.key] == "" {
				r.fault(p.key, "", "missing beside the other service URIs", "Give all three, or "+keyAccount+" in their place.")
				continue
			}
			*p.to = r.serviceURL(p.key, uris[p.key], true)
		}
		return s
	case cred != "" || client != "" || !r.NoStorage:
		r.fault(keyStorage, "", "no storage account is named", storageFix)
	}
	return Storage{}
}

// serviceURL checks the base URL of a storage service. Tokens go over TLS only.
func (r *reader) serviceURL(key, given string, byToken bool) string {
	u, err := url.Parse(given)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "https" && u.Scheme != "http"):
		// The text is not repeated: it may hold a signature.
		r.fault(key, "", "not the URL of a storage service", "Give https://ACCOUNT.SERVICE."+Public.storageSuffix()+" without a query.")
	case u.Scheme == "http" && byToken:
		r.fault(key, given, "not https, and a token is never sent in clear", "Give an https URL.")
	case u.Scheme == "http" && !Loopback(u.Hostname()):
		r.fault(key, given, "not https", "Give an https URL; http is for loopback addresses only.")
	}
	return strings.TrimRight(given, "/")
}

// connectionString reads the form that the portal shows. Its text is a secret:
// no fault repeats any of it but member names.
func (r *reader) connectionString(conn string, cloud Cloud) Storage {
	bad := func(problem, fix string) Storage {
		r.fault(keyStorage, "", problem, fix)
		return Storage{}
	}
	parts := map[string]string{}
	for _, p := range strings.Split(conn, ";") {
		if strings.TrimSpace(p) == "" {
			continue
		}
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return bad("a part of the connection string has no \"=\"", "Copy it whole from the account's access keys.")
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := parts[name]; twice {
			return bad("the connection string names "+name+" twice", "Copy it whole from the account's access keys.")
		}
		parts[name] = strings.TrimSpace(value)
	}
	if v, ok := parts["usedevelopmentstorage"]; ok {
		if !strings.EqualFold(v, "true") || len(parts) > 1 {
			return bad("UseDevelopmentStorage stands alone and is true or absent", "Write UseDevelopmentStorage=true, or give the emulator's endpoints by a whole connection string.")
		}
		at := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d/%s", port, emulatorAccount) }
		return Storage{Account: emulatorAccount, Key: emulatorKey, BlobURL: at(10000), QueueURL: at(10001), TableURL: at(10002)}
	}
	if parts["sharedaccesssignature"] != "" {
		return bad("the connection string holds a shared access signature", "Give one with the account's key, or use managed identity: a signature can't make the short-lived URLs that guests are given.")
	}
	s := Storage{Account: parts["accountname"], Key: Secret(parts["accountkey"])}
	if s.Account == "" || s.Key == "" {
		return bad("the connection string lacks AccountName or AccountKey", "Copy it whole from the account's access keys.")
	}
	if _, err := base64.StdEncoding.DecodeString(string(s.Key)); err != nil {
		return bad("AccountKey is not base64", "Copy the connection string whole from the account's access keys.")
	}
	scheme, suffix := parts["defaultendpointsprotocol"], parts["endpointsuffix"]
	if scheme == "" {
		scheme = "https"
	}
	if suffix == "" {
		suffix = cloud.storageSuffix()
	}
	for _, e := range []struct {
		member, service string
		to              *string
	}{{"blobendpoint", "blob", &s.BlobURL}, {"queueendpoint", "queue", &s.QueueURL}, {"tableendpoint", "table", &s.TableURL}} {
		u := parts[e.member]
		if u == "" {
			u = fmt.Sprintf("%s://%s.%s.%s", scheme, s.Account, e.service, suffix)
		}
		*e.to = r.serviceURL(keyStorage, u, false)
	}
	return s
}

package hardware

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// evidence is what was proven, ready to be said in a token.
type evidence struct {
	claims     map[string]any // of the TEE, without the frame that every token has
	nonce      *string        // as sent
	vmUniqueID string         // upper case, "" if the runtime data has none
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	return b, nil
}

// b64url is base64url without padding in JSON; padding is let pass, as MAA does.
type b64url []byte

// UnmarshalJSON reads a JSON string.
func (b *b64url) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	*b = raw
	return err
}

type runtimeBlock struct {
	Data b64url `json:"data"`
	Type string `json:"dataType"`
}

type attestRequest struct {
	Report  b64url       `json:"report"`
	Quote   b64url       `json:"quote"`
	Runtime runtimeBlock `json:"runtimeData"`
	Nonce   *string      `json:"nonce"`
}

func decodeRequest(body []byte) (attestRequest, error) {
	var q attestRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return q, fmt.Errorf("the request is not what it should be: %w", err)
	}
	if q.Runtime.Type != "JSON" || len(q.Runtime.Data) == 0 {
		return q, errors.New("runtimeData must have data and dataType JSON")
	}
	return q, nil
}

// bound checks that report data is the hash of the runtime data and nothing else,
// and gives the runtime data as claims.
func bound(reportData []byte, runtime []byte) (map[string]any, string, error) {
	digest := sha256.Sum256(runtime)
	if !bytes.Equal(reportData[:32], digest[:]) || len(bytes.Trim(reportData[32:], "\x00")) > 0 {
		return nil, "", errors.New("the report's data is not the hash of the runtime data")
	}
	var claims map[string]any
	if err := json.Unmarshal(runtime, &claims); err != nil {
		return nil, "", fmt.Errorf("the runtime data is not JSON: %w", err)
	}
	id := ""
	if cfg, ok := claims["vm-configuration"].(map[string]any); ok {
		if s, ok := cfg["vmUniqueId"].(string); ok {
			id = strings.ToUpper(s)
		}
	}
	return claims, id, nil
}

// judgeSNP checks an SEV-SNP report as the service does and says what it shows.
func (m *MAA) judgeSNP(body []byte) (*evidence, error) {
	q, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	var snp struct {
		Report b64url `json:"SnpReport"`
		Chain  b64url `json:"VcekCertChain"`
	}
	if err := json.Unmarshal(q.Report, &snp); err != nil {
		return nil, fmt.Errorf("the report is not JSON with SnpReport and VcekCertChain: %w", err)
	}
	block, _ := pem.Decode(snp.Chain)
	if block == nil {
		return nil, errors.New("VcekCertChain holds no PEM certificate")
	}
	vcek, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the VCEK: %w", err)
	}
	r := snp.Report
	if err := m.vendors.checkSNP(r, vcek); err != nil {
		return nil, err
	}
	runtime, id, err := bound(r[snpData:snpData+64], q.Runtime.Data)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	policy, tcb := le.Uint64(r[snpPolicy:]), tcbOf(le.Uint64(r[snpTCB:]))
	debug := policy&policyDebug != 0
	status := compliant
	if debug || !bytes.Equal(r[snpIDKey:snpIDKey+48], SNPIDKeyDigest[:]) {
		status = noncomplies
	}
	text := func(from, n int) string { return hex.EncodeToString(r[from : from+n]) }
	return &evidence{nonce: q.Nonce, vmUniqueID: id, claims: map[string]any{
		"x-ms-attestation-type":           "sevsnpvm",
		"x-ms-compliance-status":          status,
		"x-ms-runtime":                    runtime,
		"x-ms-sevsnpvm-authorkeydigest":   text(snpAuthorKey, 48),
		"x-ms-sevsnpvm-bootloader-svn":    tcb.Bootloader,
		"x-ms-sevsnpvm-familyId":          text(0x010, 16),
		"x-ms-sevsnpvm-guestsvn":          le.Uint32(r[4:]),
		"x-ms-sevsnpvm-hostdata":          text(snpHostData, 32),
		"x-ms-sevsnpvm-idkeydigest":       text(snpIDKey, 48),
		"x-ms-sevsnpvm-imageId":           text(0x020, 16),
		"x-ms-sevsnpvm-is-debuggable":     debug,
		"x-ms-sevsnpvm-launchmeasurement": text(snpMeasure, 48),
		"x-ms-sevsnpvm-microcode-svn":     tcb.Microcode,
		"x-ms-sevsnpvm-migration-allowed": policy&(1<<18) != 0,
		"x-ms-sevsnpvm-reportdata":        text(snpData, 64),
		"x-ms-sevsnpvm-reportid":          text(snpReportID, 32),
		"x-ms-sevsnpvm-smt-allowed":       policy&(1<<16) != 0,
		"x-ms-sevsnpvm-snpfw-svn":         tcb.SNP,
		"x-ms-sevsnpvm-tee-svn":           tcb.TEE,
		"x-ms-sevsnpvm-vmpl":              le.Uint32(r[snpVMPL:]),
	}}, nil
}

// judgeTDX checks a TD quote as the service does and says what it shows.
func (m *MAA) judgeTDX(body []byte) (*evidence, error) {
	q, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	t, err := m.vendors.checkTDX(q.Quote)
	if err != nil {
		return nil, err
	}
	b := t.body
	runtime, id, err := bound(b[bodyData:bodyData+64], q.Runtime.Data)
	if err != nil {
		return nil, err
	}
	attrs := binary.LittleEndian.Uint64(b[bodyAttrs:])
	status, dbg := compliant, "disabled"
	if attrs&1 != 0 {
		status, dbg = noncomplies, "enabled"
	}
	text := func(from, n int) string { return hex.EncodeToString(b[from : from+n]) }
	claims := map[string]any{
		"attester_tcb_status":               "UpToDate",
		"dbgstat":                           dbg,
		"eat_profile":                       "https://aka.ms/maa-eat-profile-tdxvm",
		"intuse":                            "generic",
		"tdx_mrseam":                        text(0x10, 48),
		"tdx_mrsignerseam":                  text(0x40, 48),
		"tdx_mrtd":                          text(bodyMRTD, 48),
		"tdx_mrconfigid":                    text(0xB8, 48),
		"tdx_mrowner":                       text(0xE8, 48),
		"tdx_mrownerconfig":                 text(0x118, 48),
		"tdx_report_data":                   text(bodyData, 64),
		"tdx_seam_attributes":               text(0x70, 8),
		"tdx_seamsvn":                       b[bodyTCBSVN],
		"tdx_td_attributes":                 text(bodyAttrs, 8),
		"tdx_td_attributes_debug":           attrs&1 != 0,
		"tdx_td_attributes_septve_disable":  attrs&(1<<28) != 0,
		"tdx_td_attributes_protection_keys": attrs&(1<<30) != 0,
		"tdx_td_attributes_key_locker":      attrs&(1<<31) != 0,
		"tdx_td_attributes_perfmon":         attrs&(1<<63) != 0,
		"tdx_tee_tcb_svn":                   text(bodyTCBSVN, 16),
		"tdx_xfam":                          text(0x80, 8),
		"x-ms-attestation-type":             "tdxvm",
		"x-ms-compliance-status":            status,
		"x-ms-runtime":                      runtime,
	}
	for i := range 4 {
		claims[fmt.Sprintf("tdx_rtmr%d", i)] = text(bodyRTMR0+48*i, 48)
	}
	return &evidence{nonce: q.Nonce, vmUniqueID: id, claims: claims}, nil
}

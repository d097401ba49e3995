package azuresim

import (
	"encoding/base64"
	"net/http"
	"strconv"
)

// page answers the part of a listing that $skipToken names, with a nextLink
// where there is more. The token is opaque to clients.
func (x *exchange) page(all []any) { x.pageOf(all, x.s.opt.PageSize, "$skipToken") }

func (x *exchange) pageOf(all []any, size int, param string) {
	from, ok := offset(x.query(param))
	if !ok || from > len(all) {
		x.fail(http.StatusBadRequest, "InvalidParameter", "the "+param+" was not made by this service")
		return
	}
	to := min(len(all), from+size)
	body := doc{"value": append([]any{}, all[from:to]...)}
	if to < len(all) {
		u := *x.r.URL
		u.Scheme, u.Host = "https", x.host
		q := u.Query()
		q.Set(param, skipToken(to))
		u.RawQuery = q.Encode()
		body["nextLink"] = u.String()
	}
	x.reply(http.StatusOK, body)
}

func skipToken(at int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("from " + strconv.Itoa(at)))
}

func offset(token string) (int, bool) {
	if token == "" {
		return 0, true
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < 6 || string(b[:5]) != "from " {
		return 0, false
	}
	n, err := strconv.Atoi(string(b[5:]))
	return n, err == nil && n >= 0
}

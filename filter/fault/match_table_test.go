package fault

// matchTable has requests that match and requests that do not.
var matchTable = []struct {
	match   string
	request fake
	want    bool
}{
	// No condition at all.
	{`{}`, *get("/"), true},
	{`{"methods": [], "headers": []}`, *get("/"), true},

	// Methods.
	{`{"methods": ["GET"]}`, *get("/"), true},
	{`{"methods": ["POST"]}`, *get("/"), false},
	{`{"methods": ["POST", "GET", "PUT"]}`, *get("/"), true},
	{`{"methods": ["GET"]}`, fake{method: "get", path: "/"}, false},
	{`{"methods": ["GE"]}`, *get("/"), false},
	{`{"methods": ["GET"]}`, fake{method: "", path: "/"}, false},
	{`{"methods": ["CONNECT"]}`, fake{method: "CONNECT"}, true},

	// The exact path.
	{`{"path": {"exact": "/cart"}}`, *get("/cart"), true},
	{`{"path": {"exact": "/cart"}}`, *get("/cart?id=1"), true},
	{`{"path": {"exact": "/cart"}}`, *get("/cart?"), true},
	{`{"path": {"exact": "/cart"}}`, *get("/cart#top"), true},
	{`{"path": {"exact": "/cart"}}`, *get("/cart#top?x"), true},
	{`{"path": {"exact": "/cart"}}`, *get("/cart/"), false},
	{`{"path": {"exact": "/cart"}}`, *get("/car"), false},
	{`{"path": {"exact": "/cart"}}`, *get("/Cart"), false},
	{`{"path": {"exact": "/cart"}}`, *get("/shop/cart"), false},
	{`{"path": {"exact": "/cart"}}`, *get("/?next=/cart"), false},
	{`{"path": {"exact": "/cart?id=1"}}`, *get("/cart?id=1"), false},
	{`{"path": {"exact": ""}}`, *get(""), true},
	{`{"path": {"exact": ""}}`, *get("?q"), true},
	{`{"path": {"exact": ""}}`, *get("/"), false},
	{`{"path": {"exact": "*"}}`, *get("*"), true},
	{`{"path": {"exact": "/a%2Fb"}}`, *get("/a/b"), false},
	{`{"path": {"exact": "/ärger"}}`, *get("/ärger"), true},

	// A prefix of the path.
	{`{"path": {"prefix": "/api/"}}`, *get("/api/v1"), true},
	{`{"path": {"prefix": "/api/"}}`, *get("/api/"), true},
	{`{"path": {"prefix": "/api/"}}`, *get("/api"), false},
	{`{"path": {"prefix": "/api/"}}`, *get("/v1/api/"), false},
	{`{"path": {"prefix": "/api"}}`, *get("/apis"), true},
	{`{"path": {"prefix": "/nobody/1"}}`, *get("/nobody/10"), true},
	{`{"path": {"prefix": "/nobody"}}`, *get("/nobody/11/x"), true},
	{`{"path": {"prefix": "/api?"}}`, *get("/api?x"), false},
	{`{"path": {"prefix": ""}}`, *get("/anything"), true},
	{`{"path": {"prefix": ""}}`, *get(""), true},

	// An expression that matches the whole path.
	{`{"path": {"regex": "/item/[0-9]+"}}`, *get("/item/42"), true},
	{`{"path": {"regex": "/item/[0-9]+"}}`, *get("/item/42?x=y"), true},
	{`{"path": {"regex": "/item/[0-9]+"}}`, *get("/item/42/edit"), false},
	{`{"path": {"regex": "/item/[0-9]+"}}`, *get("/shop/item/42"), false},
	{`{"path": {"regex": "/item/[0-9]+"}}`, *get("/item/"), false},
	{`{"path": {"regex": "item"}}`, *get("/item/1"), false},
	{`{"path": {"regex": "^/item$"}}`, *get("/item"), true},
	{`{"path": {"regex": "^/item$"}}`, *get("/items"), false},
	{`{"path": {"regex": "/a|/b"}}`, *get("/b"), true},
	{`{"path": {"regex": "/a|/b"}}`, *get("/bc"), false},
	{`{"path": {"regex": "/a|/ab"}}`, *get("/ab"), true},
	{`{"path": {"regex": "^/a|b$"}}`, *get("/ab"), false},
	{`{"path": {"regex": "(?i)/CART"}}`, *get("/cart"), true},
	{`{"path": {"regex": "/x(?i)y"}}`, *get("/xY"), true},
	{`{"path": {"regex": "/(a|b)(?:c)?"}}`, *get("/bc"), true},
	{`{"path": {"regex": "(/api)/v[12]"}}`, *get("/api/v2"), true},
	{`{"path": {"regex": "/a.b"}}`, *get("/a\nb"), false},
	{`{"path": {"regex": "(?m)/a$"}}`, *get("/a\n/b"), false},
	{`{"path": {"regex": "(?s)/a.*"}}`, *get("/a\n/b"), true},
	{`{"path": {"regex": "\\Q/a.b"}}`, *get("/a.b"), true},
	{`{"path": {"regex": "\\Q/a.b"}}`, *get("/axb"), false},
	{`{"path": {"regex": "\\Q/a)\\E(b|c)"}}`, *get("/a)c"), true},
	{`{"path": {"regex": "/a*?"}}`, *get("/aaa"), true},
	{`{"path": {"regex": "/.{1,490}"}}`, *get("/x"), true},
	{`{"path": {"regex": "/([0-9a-f]{4}-){3,}[\\pL-]*"}}`, *get("/00ff-0000-1234-é"), true},
	{`{"path": {"regex": ""}}`, *get(""), true},
	{`{"path": {"regex": ""}}`, *get("/"), false},
	{`{"path": {"regex": "/\\x{FFFD}"}}`, *get("/\xff"), true},
	{`{"path": {"regex": "/nobody/2"}}`, *get("/nobody/2"), true},

	// The exact value of a header.
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/", "x-user", "ann"), true},
	{`{"headers": [{"name": "X-User", "exact": "ann"}]}`, *get("/", "x-user", "ann"), true},
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/", "x-user", "Ann"), false},
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/", "x-user", "anna"), false},
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/", "x-user", "ann,bob"), false},
	{`{"headers": [{"name": "x-user", "exact": "ann,bob"}]}`, *get("/", "x-user", "ann,bob"), true},
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/"), false},
	{`{"headers": [{"name": "x-user", "exact": ""}]}`, *get("/"), false},
	{`{"headers": [{"name": "x-user", "exact": ""}]}`, *get("/", "x-user", ""), true},
	{`{"headers": [{"name": "x-user", "exact": "ann"}]}`, *get("/", "x-users", "ann"), false},

	// A prefix of a header's value, or an expression.
	{`{"headers": [{"name": "user-agent", "prefix": "curl/"}]}`, *get("/", "user-agent", "curl/8"), true},
	{`{"headers": [{"name": "user-agent", "prefix": "curl/"}]}`, *get("/", "user-agent", "not curl/8"), false},
	{`{"headers": [{"name": "user-agent", "prefix": "curl/"}]}`, *get("/"), false},
	{`{"headers": [{"name": "user-agent", "prefix": ""}]}`, *get("/"), false},
	{`{"headers": [{"name": "user-agent", "prefix": ""}]}`, *get("/", "user-agent", ""), true},
	{`{"headers": [{"name": "x-n", "regex": "[0-9]{2}"}]}`, *get("/", "x-n", "42"), true},
	{`{"headers": [{"name": "x-n", "regex": "[0-9]{2}"}]}`, *get("/", "x-n", "421"), false},
	{`{"headers": [{"name": "x-n", "regex": ".*"}]}`, *get("/"), false},
	{`{"headers": [{"name": "x-n", "regex": ".*"}]}`, *get("/", "x-n", ""), true},

	// A header that is present or absent.
	{`{"headers": [{"name": "x-t", "present": true}]}`, *get("/", "x-t", "1"), true},
	{`{"headers": [{"name": "x-t", "present": true}]}`, *get("/", "x-t", ""), true},
	{`{"headers": [{"name": "x-t", "present": true}]}`, *get("/"), false},
	{`{"headers": [{"name": "x-t", "present": false}]}`, *get("/"), true},
	{`{"headers": [{"name": "x-t", "present": false}]}`, *get("/", "x-t", "1"), false},
	{`{"headers": [{"name": "x-t", "present": false}]}`, *get("/", "x-t", ""), false},

	// All conditions must hold.
	{`{"headers": [{"name": "a", "exact": "1"}, {"name": "b", "exact": "2"}]}`, *get("/", "a", "1", "b", "2"), true},
	{`{"headers": [{"name": "a", "exact": "1"}, {"name": "b", "exact": "2"}]}`, *get("/", "a", "1"), false},
	{`{"headers": [{"name": "a", "exact": "1"}, {"name": "b", "exact": "2"}]}`, *get("/", "b", "2"), false},
	{`{"headers": [{"name": "a", "prefix": "1"}, {"name": "a", "regex": ".2"}]}`, *get("/", "a", "12"), true},
	{`{"headers": [{"name": "a", "prefix": "1"}, {"name": "a", "regex": ".2"}]}`, *get("/", "a", "13"), false},
	{`{"headers": [{"name": "x-user", "exact": "1"}, {"name": "x-user", "exact": "2"}]}`, *get("/", "x-user", "1"), false},
	{`{"headers": [{"name": "x-user", "exact": "1"}, {"name": "x-env", "present": false}]}`, *get("/", "x-user", "1"), true},
	{`{"headers": [{"name": "x-user", "exact": "1"}, {"name": "x-env", "present": false}]}`, *get("/", "x-user", "1", "x-env", "p"), false},
	{`{"methods": ["GET"], "path": {"prefix": "/a"}, "headers": [{"name": "h", "present": true}]}`, *get("/a/b", "h", ""), true},
	{`{"methods": ["PUT"], "path": {"prefix": "/a"}, "headers": [{"name": "h", "present": true}]}`, *get("/a/b", "h", ""), false},
	{`{"methods": ["GET"], "path": {"prefix": "/b"}, "headers": [{"name": "h", "present": true}]}`, *get("/a/b", "h", ""), false},
	{`{"methods": ["GET"], "path": {"prefix": "/a"}, "headers": [{"name": "h", "present": true}]}`, *get("/a/b"), false},
	{`{"path": {"exact": "/a"}, "headers": [{"name": "x-user", "exact": "1"}]}`, *get("/a", "x-user", "1"), true},
	{`{"path": {"exact": "/a"}, "headers": [{"name": "x-user", "exact": "1"}]}`, *get("/b", "x-user", "1"), false},
}

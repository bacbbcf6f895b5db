// A server like Google Cloud Storage, for tests: main PORT TOKEN.
// Requests need the token, except for those of buckets whose names begin with "public". `make peers` builds it.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

const unauthorized = `{"error": {"code": 401, "message": "Invalid Credentials"}}`

func main() {
	address := "127.0.0.1:" + os.Args[1]
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, ExternalURL: "http://" + address})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isPublic := strings.Contains(r.URL.Path, "/b/public")
		if !isPublic && r.Header.Get("Authorization") != "Bearer "+os.Args[2] {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, unauthorized)
			return
		}
		server.HTTPHandler().ServeHTTP(w, r)
	})))
}

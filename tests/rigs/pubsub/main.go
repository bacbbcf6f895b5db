// Google's fake of Pub/Sub as a server for tests: main PORT.
//
// Build it once, and set HEADWATER_PUBSUB to its path:
//
//	go mod init headwater/pubsub && go get cloud.google.com/go/pubsub/v2/pstest && go mod tidy
//	go build -o headwater-pubsub .
package main

import (
	"log"
	"os"
	"strconv"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	pstest.NewServerWithPort(port)
	select {}
}

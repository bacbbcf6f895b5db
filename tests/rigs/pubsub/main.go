// Google's fake of Pub/Sub as a server for tests: main PORT.
// `make peers` builds it.
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

// Command etcd is etcd, built from its published Go modules: a version that
// tells the API server how far a watch has come, which streamed listings need.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}

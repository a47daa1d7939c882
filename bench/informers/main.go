// Reads what our agent reads, as most agents do it: client-go's shared informers, whole objects, no transformation.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	begin := time.Now()
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	fail(err)
	// As agents set it: the built-in kinds come as protobuf.
	config.ContentType = apiruntime.ContentTypeProtobuf
	config.AcceptContentTypes = apiruntime.ContentTypeProtobuf + "," + apiruntime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(config)
	fail(err)
	factory := informers.NewSharedInformerFactory(client, 0)
	var synced []cache.InformerSynced
	for _, resource := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "nodes"},
		{Version: "v1", Resource: "namespaces"},
		{Version: "v1", Resource: "pods"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
	} {
		informer, err := factory.ForResource(resource)
		fail(err)
		synced = append(synced, informer.Informer().HasSynced)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	if !cache.WaitForCacheSync(stop, synced...) {
		os.Exit(1)
	}
	pods, _ := factory.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	fmt.Printf("synced %.3f %d\n", time.Since(begin).Seconds(), len(pods.Informer().GetStore().ListKeys()))
	bufio.NewReader(os.Stdin).ReadByte()
}

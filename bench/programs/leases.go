// One process that campaigns for many Leases by client-go's leader election, an elector for each, as a program does that
// has a leadership for each shard and nothing that shares them.
//
// It is built within the module of test/cluster/go, and prints one JSON line per change:
//
//	{"event":"leading","mono":1234.567,"shard":"s7"}
//
// events: "started" (the process is up), "leading" (the program of a shard begins), "ended" (it has been told to end).
// After SIGTERM it releases everything and ends.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

type change struct {
	Event string `json:"event"`
	// Monotonic milliseconds: one clock for all processes of a machine.
	Mono  float64 `json:"mono"`
	Shard string  `json:"shard,omitempty"`
}

var stdout sync.Mutex

func report(event, shard string) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	line, err := json.Marshal(change{Event: event, Mono: float64(now.Nano()) / 1e6, Shard: shard})
	if err != nil {
		panic(err)
	}
	stdout.Lock()
	defer stdout.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig")
	namespace := flag.String("namespace", "", "namespace of the Leases")
	identity := flag.String("identity", "", "holderIdentity of this process")
	leases := flag.Int("leases", 100, "how many Leases")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.Timeout = 5 * time.Second
	// Its limit, five requests a second by default, would not let it renew so many.
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report("started", "")

	var all sync.WaitGroup
	for i := range *leases {
		shard := fmt.Sprintf("s%d", i)
		all.Go(func() {
			for ctx.Err() == nil {
				campaign(ctx, client, *namespace, *identity, shard)
			}
		})
	}
	all.Wait()
}

func campaign(ctx context.Context, client kubernetes.Interface, namespace, identity, shard string) {
	var programs sync.WaitGroup
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: "bench-" + shard},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     2 * time.Second,
		ReleaseOnCancel: true,
		Name:            shard,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				programs.Add(1)
				defer programs.Done()
				report("leading", shard)
				<-ctx.Done()
				report("ended", shard)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	elector.Run(ctx)
	programs.Wait()
}

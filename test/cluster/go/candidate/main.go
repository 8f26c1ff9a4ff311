// A candidate of client-go's leader election, to see it and the library share one Lease.
//
// It prints one JSON line per change:
//
//	{"at":1700000000000.123,"event":"leading","identity":"go-1","leader":"go-1"}
//
// events: "started" (the process is up), "newLeader" (it has seen who leads), "leading" (its own term begins),
// "stopped" (its own term is over), "released" (after SIGTERM or SIGINT with --release: the Lease is free again).
// With --write-url its program writes there while it leads, as controllers do that ask whether they lead, and then act.
//
// A term lost without a signal ends the process with code 1, as client-go's users are told to do; with --rejoin it
// campaigns again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

type change struct {
	At       float64 `json:"at"`
	Event    string  `json:"event"`
	Identity string  `json:"identity"`
	Leader   string  `json:"leader,omitempty"`
}

var stdout sync.Mutex

func main() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig (required)")
	namespace := flag.String("namespace", "", "namespace of the Lease (required)")
	name := flag.String("name", "", "name of the Lease (required)")
	identity := flag.String("identity", "", "holderIdentity of this candidate (required)")
	leaseDuration := flag.Duration("lease-duration", 15*time.Second, "how long the others respect this leader")
	renewDeadline := flag.Duration("renew-deadline", 10*time.Second, "when this leader gives up renewing")
	retryPeriod := flag.Duration("retry-period", 2*time.Second, "pause between attempts")
	release := flag.Bool("release", false, "release the Lease when told to stop (ReleaseOnCancel)")
	rejoin := flag.Bool("rejoin", false, "campaign again after a lost term")
	writeURL := flag.String("write-url", "", "while it leads, POST the term's leaseTransitions here again and again")
	klog.InitFlags(nil)
	flag.Parse()
	if *kubeconfig == "" || *namespace == "" || *name == "" || *identity == "" {
		fmt.Fprintln(os.Stderr, "--kubeconfig, --namespace, --name and --identity are required")
		os.Exit(2)
	}

	report := func(event, leader string) {
		line, err := json.Marshal(change{
			At:       float64(time.Now().UnixMicro()) / 1000,
			Event:    event,
			Identity: *identity,
			Leader:   leader,
		})
		if err != nil {
			panic(err)
		}
		stdout.Lock()
		defer stdout.Unlock()
		_, _ = os.Stdout.Write(append(line, '\n'))
	}

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// As controllers do it: a request that hangs must not outlive the deadline it serves.
	config.Timeout = *renewDeadline / 2
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: *namespace, Name: *name},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report("started", "")

	for {
		// The program of a term: OnStartedLeading runs in its own goroutine, and client-go does not wait for it.
		var leading atomic.Bool
		var elector *leaderelection.LeaderElector
		var err error
		elector, err = leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock:            lock,
			LeaseDuration:   *leaseDuration,
			RenewDeadline:   *renewDeadline,
			RetryPeriod:     *retryPeriod,
			ReleaseOnCancel: *release,
			Name:            *name,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					leading.Store(true)
					report("leading", *identity)
					if *writeURL != "" {
						write(ctx, *writeURL, lock, elector.IsLeader)
					}
				},
				OnStoppedLeading: func() {
					// It is called for a candidate that never led, too.
					if leading.Load() {
						report("stopped", "")
					}
				},
				OnNewLeader: func(leader string) { report("newLeader", leader) },
			},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		elector.Run(ctx)
		if ctx.Err() != nil {
			if *release && leading.Load() {
				if err := released(lock, *identity); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				report("released", "")
			}
			return
		}
		if !*rejoin {
			os.Exit(1)
		}
	}
}

// A program that checks before each write.
func write(ctx context.Context, url string, lock *resourcelock.LeaseLock, isLeader func() bool) {
	record, _, err := lock.Get(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	for ctx.Err() == nil && isLeader() {
		// What it has to do between its check and its write.
		time.Sleep(15 * time.Millisecond)
		response, err := http.Post(fmt.Sprintf("%s?token=%d", url, record.LeaderTransitions), "text/plain", nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// client-go only logs a release that failed: ask the API server whether the Lease is free.
func released(lock *resourcelock.LeaseLock, identity string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if err != nil {
		return err
	}
	if record.HolderIdentity == identity {
		return errors.New("the Lease was not released")
	}
	return nil
}

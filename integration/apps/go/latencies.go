package main

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// latencies are how long those requests took that were answered, and how many were not.
type latencies struct {
	lock   sync.Mutex
	times  []time.Duration
	failed int
}

// note makes a request.
func (l *latencies) note(request func() error) {
	began := time.Now()
	err := request()
	took := time.Since(began)
	l.lock.Lock()
	defer l.lock.Unlock()
	if err != nil {
		l.failed++
		return
	}
	l.times = append(l.times, took)
}

// print tells them on one line: times in nanoseconds, of the middle one and of the one that 99 of 100 are below.
func (l *latencies) print(during time.Duration) {
	slices.Sort(l.times)
	at := func(part int) int64 {
		if len(l.times) == 0 {
			return 0
		}
		return l.times[len(l.times)*part/100].Nanoseconds()
	}
	fmt.Printf("answered=%d failed=%d during=%d middle=%d late=%d\n",
		len(l.times), l.failed, during.Nanoseconds(), at(50), at(99))
}

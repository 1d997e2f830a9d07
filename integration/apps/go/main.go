// A shop that is asked for things over HTTP/1.1 or gRPC, and its customers: instrumented by OpenTelemetry's own SDK for Go
// alone. Where its spans go stands in the standard OTEL_* environment variables.
//
//	shop server ADDRESS
//	shop client ADDRESS CONNECTIONS RATE SECONDS EVERY
//	shop grpc-server ADDRESS
//	shop grpc-client ADDRESS CONNECTIONS RATE SECONDS EVERY STREAMS
//
// Of a connection of gRPC so many STREAMS may be open at once.
// A client makes RATE requests a second over CONNECTIONS connections that are kept, as many as are answered in time; of EVERY
// requests one asks for what is known to go wrong, the kinds in turn; none does if EVERY is 0. The path of a request says which
// kind it is: a rule for packets finds it there, and whoever reads the spans does too.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// What can go wrong with a request, in the order in which requests ask for it; the status of its answer is what a rule for
// packets finds that one by.
var faults = []struct {
	path   string
	status int
}{
	{"/request-lost", 200},
	{"/answer-lost", 221},
	{"/request-kept", 200},
	{"/answer-kept", 222},
	{"/reset", 200},
	{"/abort", 200},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(arguments []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	switch {
	case len(arguments) == 2 && arguments[0] == "server":
		err = serve(ctx, arguments[1])
	case len(arguments) == 6 && arguments[0] == "client":
		err = ask(ctx, arguments[1], arguments[2:])
	case len(arguments) == 2 && arguments[0] == "grpc-server":
		err = serveRPC(ctx, arguments[1])
	case len(arguments) == 7 && arguments[0] == "grpc-client":
		err = ask(ctx, arguments[1], arguments[2:])
	default:
		err = errors.New("usage: shop server ADDRESS | shop client ADDRESS CONNECTIONS RATE SECONDS EVERY" +
			" | shop grpc-server ADDRESS | shop grpc-client ADDRESS CONNECTIONS RATE SECONDS EVERY STREAMS")
	}
	// Its spans are out before it ends, also after a signal.
	return errors.Join(err, provider.Shutdown(context.Background()))
}

// serve answers until the context ends.
func serve(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(statusOf(r.URL.Path))
		io.WriteString(w, "here you are")
	})
	mux.HandleFunc("/abort/", abort)
	server := http.Server{Addr: address, Handler: otelhttp.NewHandler(mux, "shop")}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func statusOf(path string) int {
	for _, fault := range faults {
		if strings.HasPrefix(path, fault.path) {
			return fault.status
		}
	}
	return http.StatusOK
}

// abort resets the connection in place of an answer.
func abort(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		log.Print(err)
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// A customer makes a request at a time, by its path.
type customer func(ctx context.Context, path string) error

// httpCustomers have a connection each.
func httpCustomers(address string, connections int) []customer {
	var all []customer
	for range connections {
		// A pool of its own: one connection, which is kept.
		client := &http.Client{Transport: otelhttp.NewTransport(notePort{&http.Transport{}})}
		all = append(all, func(_ context.Context, path string) error { return get(client, "http://"+address+path) })
	}
	return all
}

// ask makes requests until the time is over; a request may fail, that is what it is for.
func ask(ctx context.Context, address string, numbers []string) error {
	var n []int
	for _, text := range numbers {
		number, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		n = append(n, number)
	}
	connections, rate, seconds, every := n[0], n[1], n[2], n[3]
	customers := httpCustomers(address, connections)
	if len(n) > 4 {
		var err error
		if customers, err = rpcCustomers(address, connections, n[4]); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	due := make(chan int)
	var workers sync.WaitGroup
	var times latencies
	for _, request := range customers {
		workers.Go(func() {
			for number := range due {
				times.note(func() error { return request(ctx, pathOf(number, every)) })
			}
		})
	}
	started := time.Now()
	produce(ctx, due, rate)
	close(due)
	workers.Wait()
	times.print(time.Since(started))
	return nil
}

// produce gives out numbers at a rate until the context ends; what nobody could take in time is made up for.
func produce(ctx context.Context, due chan<- int, rate int) {
	made, started := 0, time.Now()
	tick := time.NewTicker(time.Second / time.Duration(min(rate, 1000)))
	defer tick.Stop()
	for {
		for ; made < int(time.Since(started).Seconds()*float64(rate)); made++ {
			select {
			case due <- made:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func pathOf(number, every int) string {
	if every == 0 || number%every != every-1 {
		return fmt.Sprintf("/goods/%d", number)
	}
	return fmt.Sprintf("%s/%d", faults[number/every%len(faults)].path, number)
}

func get(client *http.Client, url string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// What no one is to see.
	request.Header.Set("Authorization", "Bearer "+os.Getenv("SHOP_SECRET"))
	request.AddCookie(&http.Cookie{Name: "session", Value: os.Getenv("SHOP_SECRET")})
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// notePort tells in the client's span which ports it has asked from: a request that was reset may be made again.
type notePort struct{ http.RoundTripper }

func (t notePort) RoundTrip(request *http.Request) (*http.Response, error) {
	var ports []int
	got := func(info httptrace.GotConnInfo) {
		if local, ok := info.Conn.LocalAddr().(*net.TCPAddr); ok {
			ports = append(ports, local.Port)
			trace.SpanFromContext(request.Context()).SetAttributes(attribute.IntSlice("shop.ports", ports))
		}
	}
	ctx := httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{GotConn: got})
	return t.RoundTripper.RoundTrip(request.WithContext(ctx))
}

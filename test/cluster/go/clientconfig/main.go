// What client-go makes of kubeconfigs: the oracle of test/cluster/kubeconfigOracle.
//
// Each line of standard input is a case, each line of standard output what clientcmd and rest make of it: where requests
// go, what they carry, or that the configuration is refused. Nothing is sent anywhere, and no plugin is started.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/net/http/httpproxy"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
)

type input struct {
	// As KUBECONFIG, unless Explicit is given.
	List     string            `json:"list"`
	Explicit string            `json:"explicit"`
	Context  string            `json:"context"`
	Env      map[string]string `json:"env"`
}

type tlsOutput struct {
	CA         string `json:"ca"`
	Cert       string `json:"cert"`
	Key        string `json:"key"`
	ServerName string `json:"servername"`
	Insecure   bool   `json:"insecure"`
}

type execOutput struct {
	Command         string          `json:"command"`
	Args            []string        `json:"args"`
	Env             []string        `json:"env"`
	InteractiveMode string          `json:"interactiveMode"`
	Info            json.RawMessage `json:"info"`
}

type output struct {
	Refused   string              `json:"refused,omitempty"`
	Server    string              `json:"server,omitempty"`
	Namespace string              `json:"namespace,omitempty"`
	TLS       *tlsOutput          `json:"tls,omitempty"`
	Headers   map[string][]string `json:"headers,omitempty"`
	Proxy     string              `json:"proxy,omitempty"`
	Exec      *execOutput         `json:"exec,omitempty"`
}

var proxyVariables = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"}

func main() {
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	// In no Pod, whatever this process is started in.
	os.Unsetenv("KUBERNETES_SERVICE_HOST")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var in input
		if err := json.Unmarshal(lines.Bytes(), &in); err != nil {
			panic(err)
		}
		out, err := resolve(in)
		if err != nil {
			out = &output{Refused: err.Error()}
		}
		if err := answers.Encode(out); err != nil {
			panic(err)
		}
	}
}

func resolve(in input) (*output, error) {
	for _, name := range proxyVariables {
		os.Unsetenv(name)
		if value, ok := in.Env[name]; ok {
			os.Setenv(name, value)
		}
	}
	os.Setenv("KUBECONFIG", in.List)
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = in.Explicit
	rules.WarnIfAllMissing = false
	overrides := &clientcmd.ConfigOverrides{CurrentContext: in.Context}
	clientConfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := clientConfig.ClientConfig()
	if err != nil {
		return nil, err
	}
	namespace, _, err := clientConfig.Namespace()
	if err != nil {
		return nil, err
	}
	// Everything that a client would check before its first request.
	if _, err := rest.TransportFor(config); err != nil {
		return nil, err
	}
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	out := &output{Server: server.String(), Namespace: namespace}
	if server.Scheme == "https" {
		if err := rest.LoadTLSFiles(config); err != nil {
			return nil, err
		}
		// Of files it looks only in the first handshake.
		if len(config.CertData) > 0 {
			if _, err := tls.X509KeyPair(config.CertData, config.KeyData); err != nil {
				return nil, err
			}
		}
		out.TLS = &tlsOutput{
			CA:         string(config.CAData),
			Cert:       string(config.CertData),
			Key:        string(config.KeyData),
			ServerName: config.ServerName,
			Insecure:   config.Insecure,
		}
	}
	if out.Headers, err = headers(config); err != nil {
		return nil, err
	}
	if out.Proxy, err = proxy(config, server); err != nil {
		return nil, err
	}
	out.Exec, err = plugin(config)
	return out, err
}

type recorder struct{ headers http.Header }

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	r.headers = request.Header
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: request}, nil
}

// What a request carries, but for what a plugin gives.
func headers(config *rest.Config) (map[string][]string, error) {
	plain := rest.CopyConfig(config)
	plain.TLSClientConfig = rest.TLSClientConfig{}
	plain.ExecProvider = nil
	plain.Proxy = nil
	recorded := &recorder{}
	plain.Transport = recorded
	transport, err := rest.TransportFor(plain)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodGet, "https://localhost/", nil)
	if err != nil {
		return nil, err
	}
	if _, err := transport.RoundTrip(request); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for name, values := range recorded.headers {
		if lower := strings.ToLower(name); lower == "authorization" || strings.HasPrefix(lower, "impersonate-") {
			out[lower] = append(out[lower], values...)
		}
	}
	return out, nil
}

func proxy(config *rest.Config, server *url.URL) (string, error) {
	request := &http.Request{URL: server}
	find := config.Proxy
	if find == nil {
		// As http.ProxyFromEnvironment, which looks at the environment only once.
		find = utilnet.NewProxierWithNoProxyCIDR(func(request *http.Request) (*url.URL, error) {
			return httpproxy.FromEnvironment().ProxyFunc()(request.URL)
		})
	}
	found, err := find(request)
	if err != nil || found == nil {
		return "", err
	}
	switch found.Scheme {
	case "http", "https", "socks5", "socks5h":
		return found.String(), nil
	default:
		// What the first request would fail with.
		return "", fmt.Errorf("proxy scheme %q", found.Scheme)
	}
}

func plugin(config *rest.Config) (*execOutput, error) {
	exec := config.ExecProvider
	if exec == nil || config.BearerToken != "" || config.BearerTokenFile != "" || config.Username != "" ||
		len(config.CertData) > 0 || config.CertFile != "" {
		return nil, nil
	}
	if exec.InteractiveMode == api.AlwaysExecInteractiveMode {
		return nil, fmt.Errorf("exec plugin cannot support interactive mode: standard input is not a terminal")
	}
	spec := map[string]any{"interactive": false}
	if exec.ProvideClusterInfo {
		cluster, err := rest.ConfigToExecCluster(config)
		if err != nil {
			return nil, err
		}
		info := map[string]any{"server": cluster.Server}
		add := func(key string, value any, isSet bool) {
			if isSet {
				info[key] = value
			}
		}
		add("tls-server-name", cluster.TLSServerName, cluster.TLSServerName != "")
		add("insecure-skip-tls-verify", true, cluster.InsecureSkipTLSVerify)
		add("certificate-authority-data", cluster.CertificateAuthorityData, len(cluster.CertificateAuthorityData) > 0)
		add("proxy-url", cluster.ProxyURL, cluster.ProxyURL != "")
		add("disable-compression", true, cluster.DisableCompression)
		if unknown, ok := cluster.Config.(*runtime.Unknown); ok {
			add("config", json.RawMessage(unknown.Raw), len(unknown.Raw) > 0)
		}
		spec["cluster"] = info
	}
	info, err := json.Marshal(map[string]any{"kind": "ExecCredential", "apiVersion": exec.APIVersion, "spec": spec})
	if err != nil {
		return nil, err
	}
	out := &execOutput{
		Command:         filepath.Clean(exec.Command),
		Args:            exec.Args,
		InteractiveMode: string(exec.InteractiveMode),
		Info:            info,
	}
	for _, variable := range exec.Env {
		out.Env = append(out.Env, variable.Name+"="+variable.Value)
	}
	return out, nil
}

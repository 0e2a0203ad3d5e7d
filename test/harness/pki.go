package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs certificates and keeps them in files, in the forms that both
// Go and Java read: PEM, with the key in PKCS 8.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // the authority's own certificate
}

func newAuthority(dir, name string) (*authority, error) {
	a := &authority{dir: dir, file: filepath.Join(dir, name+"-ca.pem")}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := a.make(tmpl, tmpl, nil)
	if err != nil {
		return nil, err
	}
	return a, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// make signs; a nil signer is the new key itself, which becomes the authority's.
func (a *authority) make(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = key
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	if tmpl.IsCA {
		a.key = key
		a.cert, err = x509.ParseCertificate(der)
		return der, err
	}
	return der, a.store(tmpl.Subject.CommonName, der, key)
}

// issue makes a certificate for a host, valid until an hour from now, or ended
// an hour ago. Its files are <name>.pem, <name>-key.pem, and both in one as
// <name>-store.pem, which is a key store for Java.
func (a *authority) issue(name, host string, expired bool) error {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	if expired {
		tmpl.NotAfter = time.Now().Add(-time.Hour)
	}
	_, err := a.make(tmpl, a.cert, a.key)
	return err
}

func (a *authority) store(name string, der []byte, key *ecdsa.PrivateKey) error {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	own := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for suffix, text := range map[string][]byte{".pem": cert, "-key.pem": own, "-store.pem": append(own[:len(own):len(own)], cert...)} {
		if err := os.WriteFile(filepath.Join(a.dir, name+suffix), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

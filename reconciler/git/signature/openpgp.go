package signature

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/boifi/hfi/internal/api"
)

type keyring = openpgp.EntityList

// parseKeyring reads OpenPGP keys: binary, or in one or more armored blocks.
func parseKeyring(name string, text []byte) (keyring, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")) {
		keys, err := readKeys(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s has no OpenPGP keys: %w", name, err)
		}
		return keys, nil
	}
	// The blocks are separated here, as the decoder reads ahead.
	const begin = "-----BEGIN "
	var keys keyring
	for at, block := range strings.Split("\n"+string(text), "\n"+begin) {
		if at == 0 {
			continue
		}
		decoded, err := armor.Decode(strings.NewReader(begin + block))
		if err != nil {
			return nil, fmt.Errorf("%s: armored block %d cannot be read: %w", name, at, err)
		}
		if decoded.Type != openpgp.PublicKeyType {
			return nil, fmt.Errorf("%s: armored block %d is a %s; only public keys belong into the file", name, at, decoded.Type)
		}
		more, err := readKeys(decoded.Body)
		if err != nil {
			return nil, fmt.Errorf("%s: armored block %d has no OpenPGP keys: %w", name, at, err)
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

func readKeys(from io.Reader) (keyring, error) {
	keys, err := openpgp.ReadKeyRing(from)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.PrivateKey != nil {
			return nil, fmt.Errorf("the key %s is a private one; export the public one: gpg --export", fingerprintOf(key.PrimaryKey))
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it has none")
	}
	return keys, nil
}

func fingerprintOf(key *packet.PublicKey) string {
	return strings.ToUpper(hex.EncodeToString(key.Fingerprint))
}

// verifyOpenPGP checks a signature as gpg --verify does: the key must be valid
// both now and when it signed, because the signer chooses the time in the signature.
func (k *Keys) verifyOpenPGP(text, armored []byte) Answer {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return Invalid("the OpenPGP signature cannot be read: %v", err)
	}
	binary, err := io.ReadAll(block.Body)
	if err != nil {
		return Invalid("the OpenPGP signature cannot be read: %v", err)
	}
	signature, err := onlySignature(binary)
	if err != nil {
		return Invalid("the OpenPGP signature cannot be read: %v", err)
	}
	key := issuer(signature)
	if len(k.keyring) == 0 {
		return answer(api.SignatureUnknownKey, "", key, "it is signed with the OpenPGP key %s, and no keyring is configured", key)
	}
	if signature.SigType != packet.SigTypeBinary {
		// A signature of text leaves open how the lines of it end.
		return answer(api.SignatureInvalid, "", key, "the signature of the key %s is not one of binary data", key)
	}
	var entity *openpgp.Entity
	for _, at := range []time.Time{k.now(), signature.CreationTime} {
		config := &packet.Config{Time: func() time.Time { return at }}
		_, entity, err = openpgp.VerifyDetachedSignature(k.keyring, bytes.NewReader(text), bytes.NewReader(binary), config)
		if err != nil {
			break
		}
	}
	name := ""
	if entity != nil {
		// What the signature says of its key is not signed.
		key = fingerprintOf(entity.PrimaryKey)
		if identity := entity.PrimaryIdentity(); identity != nil {
			name = identity.Name
		}
	}
	switch {
	case err == nil:
		return verified(name, key, k.isApprover(entity))
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return answer(api.SignatureUnknownKey, "", key, "unknown key %s", key)
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return answer(api.SignatureRevoked, name, key, "the key %s of %s is revoked", key, name)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return answer(api.SignatureExpired, name, key, "the key %s of %s is not valid: it expired, or is newer than the signature of %s", key, name, stamp(signature.CreationTime))
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return answer(api.SignatureExpired, name, key, "the signature of %s by the key %s of %s expired, or its date is in the future", stamp(signature.CreationTime), key, name)
	}
	return answer(api.SignatureInvalid, name, key, "bad signature by the key %s: %v", key, err)
}

// onlySignature returns the one packet that a signature consists of. More would
// leave open which of them counts.
func onlySignature(binary []byte) (*packet.Signature, error) {
	packets := packet.NewReader(bytes.NewReader(binary))
	first, err := packets.Next()
	if err != nil {
		return nil, err
	}
	signature, ok := first.(*packet.Signature)
	if !ok {
		return nil, errors.New("it is something else")
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it must be one signature, and nothing else")
	}
	return signature, nil
}

// issuer names the key that a signature claims to be made with: by its
// fingerprint or, if it does not have that, by its ID.
func issuer(signature *packet.Signature) string {
	switch {
	case len(signature.IssuerFingerprint) > 0:
		return strings.ToUpper(hex.EncodeToString(signature.IssuerFingerprint))
	case signature.IssuerKeyId != nil:
		return fmt.Sprintf("%016X", *signature.IssuerKeyId)
	}
	return ""
}

// isApprover reports whether an approver is the owner of an OpenPGP key.
func (k *Keys) isApprover(entity *openpgp.Entity) bool {
	if len(k.approvers) == 0 {
		return true
	}
	fingerprint := fingerprintOf(entity.PrimaryKey)
	return slices.ContainsFunc(k.approvers, func(approver string) bool {
		if strings.EqualFold(strings.ReplaceAll(approver, " ", ""), fingerprint) {
			return true
		}
		for _, identity := range entity.Identities {
			if !identity.Revoked(k.now()) && (approver == identity.Name || approver == identity.UserId.Email) {
				return true
			}
		}
		return false
	})
}

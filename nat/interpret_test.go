package nat

import "math/rand/v2"

func randomSpec(*rand.Rand) Spec { return separate() }

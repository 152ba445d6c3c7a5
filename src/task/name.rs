//! Names for tasks and services that were given none: a colour and a bird.

const COLOURS: [&str; 32] = [
    "amber", "ash", "auburn", "azure", "beige", "black", "blue", "brown", "buff", "copper", "coral", "cream",
    "crimson", "dun", "ebony", "fawn", "golden", "green", "grey", "hazel", "indigo", "ivory", "jade",
    "khaki", "lilac", "mauve", "ochre", "olive", "pearl", "russet", "sable", "white",
];
const BIRDS: [&str; 32] = [
    "avocet", "bittern", "bunting", "chough", "coot", "crake", "curlew", "dipper", "dotterel", "dunlin",
    "eider", "finch", "gannet", "godwit", "grebe", "heron", "hobby", "jay", "kestrel", "knot", "lark",
    "linnet", "martin", "merlin", "pipit", "plover", "rail", "ruff", "siskin", "swift", "tern", "wren",
];
/// From when on a number is added: then many names are taken.
const PLAIN_TRIES: u32 = 8;

/// A name that is not taken.
pub(crate) fn free(random: &mut fastrand::Rng, is_taken: impl Fn(&str) -> bool) -> String {
    for tried in 0_u32.. {
        let (colour, bird) = (COLOURS[random.usize(..COLOURS.len())], BIRDS[random.usize(..BIRDS.len())]);
        let name = if tried < PLAIN_TRIES {
            format!("{colour}-{bird}")
        } else {
            format!("{colour}-{bird}-{}", random.u32(..))
        };
        if !is_taken(&name) {
            return name;
        }
    }
    unreachable!("there are more names than anybody has")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::api::Name;

    #[test]
    fn names_are_names_and_never_taken() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut taken = HashSet::new();
        for _ in 0..3_000 {
            let name = free(&mut random, |name| taken.contains(name));
            assert!(name.parse::<Name>().is_ok() && taken.insert(name));
        }
    }
}

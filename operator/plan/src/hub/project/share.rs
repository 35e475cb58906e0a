//! How a grant's GPUs are split over the sites of one pool: the sum never passes what was granted.

use std::collections::BTreeMap;

/// Splits `total` over sites. A site with a number of its own gets that; the others share what is left by weight, in whole GPUs, the
/// largest remainders first and ties by name.
pub fn split(total: i64, sites: &BTreeMap<String, (Option<i64>, i64)>) -> BTreeMap<String, i64> {
    let mut shares = BTreeMap::new();
    let mut left = total.max(0);
    for (name, (own, _)) in sites {
        if let Some(own) = own {
            let share = (*own).clamp(0, left);
            left -= share;
            shares.insert(name.clone(), share);
        }
    }
    let open: Vec<(&String, i64)> = sites.iter().filter(|(_, (own, _))| own.is_none()).map(|(name, (_, weight))| (name, (*weight).max(0))).collect();
    let weights: i128 = open.iter().map(|(_, weight)| i128::from(*weight)).sum();
    let mut remainders = Vec::new();
    let mut given = 0;
    for (name, weight) in &open {
        let (weight, weights) = if weights == 0 { (1, open.len() as i128) } else { (i128::from(*weight), weights) };
        let exact = i128::from(left) * weight;
        let share = i64::try_from(exact / weights).unwrap_or(0);
        given += share;
        remainders.push((std::cmp::Reverse(exact % weights), (*name).clone()));
        shares.insert((*name).clone(), share);
    }
    remainders.sort();
    for (_, name) in remainders.into_iter().take(usize::try_from(left - given).unwrap_or(0)) {
        if let Some(share) = shares.get_mut(&name) {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(entries: &[(&str, Option<i64>, i64)]) -> BTreeMap<String, (Option<i64>, i64)> {
        entries.iter().map(|(name, own, weight)| ((*name).to_owned(), (*own, *weight))).collect()
    }

    #[test]
    fn by_nodes_and_by_number() {
        let shares = split(16, &sites(&[("a", None, 16), ("b", None, 8)]));
        assert_eq!(shares.values().copied().collect::<Vec<_>>(), [11, 5]);
        let shares = split(16, &sites(&[("a", Some(4), 16), ("b", None, 8), ("c", None, 8)]));
        assert_eq!(shares.values().copied().collect::<Vec<_>>(), [4, 6, 6]);
        let shares = split(3, &sites(&[("a", None, 0), ("b", None, 0)]));
        assert_eq!(shares.values().sum::<i64>(), 3);
    }
}
